/*
 * Listeners and keys. See svc_config_net.h.
 */
#include "service/svc_config_net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base_error.h"
#include "netio/net_inbox.h"

enum { DEFAULT_PORT = 7747, KEY_FILE_BYTES_MAX = 256, UNIX_PATH_BYTES = sizeof(((struct sockaddr_un *)0)->sun_path) };

_Static_assert((size_t)UNIX_PATH_BYTES <= (size_t)NET_PLACE_BYTES, "a socket's path is a place");

/* ---- addresses -------------------------------------------------------------------------------------------- */

/* ":7747": digits and nothing else. */
static int parse_port(const char *text, uint16_t *to)
{
	const size_t digits = strspn(text + 1, "0123456789");
	const long port = strtol(text + 1, NULL, 10);

	if (text[0] != ':' || digits == 0 || digits > 5 || text[1 + digits] || port > UINT16_MAX)
		return -EINVAL;
	*to = (uint16_t)port;
	return 0;
}

/* "127.0.0.1:7747", "[::1]:7747", "0.0.0.0": an address of this machine, and a port or the usual one. */
static int parse_host(const char *text, struct net_listener *to)
{
	const bool bracketed = text[0] == '[';
	const char *begin = text + bracketed, *end = bracketed ? strchr(begin, ']') : begin + strcspn(begin, ":");
	const char *after = end ? end + bracketed : NULL;
	unsigned char binary[sizeof(struct in6_addr)];

	if (!end || (size_t)(end - begin) >= sizeof(to->place))
		return -EINVAL;
	memcpy(to->place, begin, (size_t)(end - begin));
	to->place[end - begin] = 0;
	if (inet_pton(bracketed ? AF_INET6 : AF_INET, to->place, binary) != 1)
		return -EINVAL;
	to->port = DEFAULT_PORT;
	return *after ? parse_port(after, &to->port) : 0;
}

static int parse_address(const char *text, struct net_listener *to)
{
	memset(to, 0, sizeof(*to));
	if (!strncmp(text, "unix:", 5)) {
		to->kind = NET_PORT_UNIX;
		if (text[5] != '/' || strlen(text + 5) >= UNIX_PATH_BYTES)
			return -EINVAL;
		strcpy(to->place, text + 5);
		return 0;
	}
	to->kind = !strncmp(text, "udp:", 4) ? NET_PORT_UDP : NET_PORT_TCP;
	return strncmp(text, "tcp:", 4) && to->kind == NET_PORT_TCP ? -EINVAL : parse_host(text + 4, to);
}

static bool is_loopback(const struct net_listener *at)
{
	struct in_addr four;

	if (at->kind == NET_PORT_UNIX || !strcmp(at->place, "::1"))
		return true;
	return inet_pton(AF_INET, at->place, &four) == 1 && ntohl(four.s_addr) >> 24 == 127;
}

/* ---- [listen NAME] ---------------------------------------------------------------------------------------- */

static int bad_value(const char *name, const char *key, const char *value, const char *wanted)
{
	return base_fail(EINVAL, "[listen %s] %s = %s: %s", name, key, value, wanted);
}

static int parse_flag(const char *name, const char *key, const char *value, bool *flag)
{
	*flag = !strcasecmp(value, "yes");
	return *flag || !strcasecmp(value, "no") ? 0 : bad_value(name, key, value, "say yes or no");
}

static struct svc_listen_config *listen_find(struct svc_config *config, const char *name)
{
	uint32_t i = 0;

	while (i < config->listen_count && strcmp(config->listens[i].name, name))
		i++;
	if (i == NET_LISTENERS_MAX || strlen(name) >= sizeof(config->listens[i].name))
		return NULL;
	if (i == config->listen_count) {
		memset(&config->listens[i], 0, sizeof(config->listens[i]));
		strcpy(config->listens[i].name, name);
		config->listen_count++;
	}
	return &config->listens[i];
}

int svc_config_listen_set(struct svc_config *config, const char *name, const char *key, const char *value)
{
	struct svc_listen_config *listen = listen_find(config, name);

	if (!listen)
		return base_fail(EINVAL, "[listen %.64s]: at most %d listeners, with names shorter than %d", name, NET_LISTENERS_MAX,
			SVC_NAME_BYTES);
	if (!strcmp(key, "address"))
		return parse_address(value, &listen->at) ? bad_value(name, key, value,
			"write tcp:ADDRESS:PORT, udp:ADDRESS:PORT (IPv6 in brackets: [::1]) or unix:/PATH") : 0;
	if (!strcmp(key, "plain"))
		return parse_flag(name, key, value, &listen->plain);
	if (!strcmp(key, "trusted"))
		return parse_flag(name, key, value, &listen->trusted);
	if (!strcmp(key, "tenant")) {
		if (strlen(value) >= sizeof(listen->tenant))
			return bad_value(name, key, value, "too long a name");
		strcpy(listen->tenant, value);
		return 0;
	}
	return bad_value(name, key, value, "unknown key; a listener has: address plain trusted tenant");
}

/* ---- keys ------------------------------------------------------------------------------------------------- */

static int check_key_mode(const struct svc_tenant_config *tenant, int fd)
{
	struct stat status;

	if (fstat(fd, &status))
		return base_fail(errno, "[tenant %s] key_file = %s: %s", tenant->name, tenant->key_file, strerror(errno));
	if (!S_ISREG(status.st_mode))
		return base_fail(EINVAL, "[tenant %s] key_file = %s: no regular file", tenant->name, tenant->key_file);
	return status.st_mode & (S_IRWXO | S_IWGRP) ? base_fail(EPERM, "[tenant %s] key_file = %s: others may read it; chmod 600 it",
		tenant->name, tenant->key_file) : 0;
}

int svc_config_key(const struct svc_tenant_config *tenant, unsigned char key[NET_KEY_BYTES])
{
	char text[KEY_FILE_BYTES_MAX];
	/* What is no file is not waited for. */
	int fd = open(tenant->key_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;
	ssize_t bytes;

	if (fd < 0)
		return base_fail(errno, "[tenant %s] key_file = %s: %s", tenant->name, tenant->key_file, strerror(errno));
	rc = check_key_mode(tenant, fd);
	bytes = rc ? 0 : read(fd, text, sizeof(text) - 1);
	close(fd);
	if (rc)
		return rc;
	text[bytes > 0 ? bytes : 0] = 0;
	if (net_key_parse(text, key))
		rc = base_fail(EINVAL, "[tenant %s] key_file = %s: a key is 64 hexadecimal digits; `openssl rand -hex 32` makes one",
			tenant->name, tenant->key_file);
	explicit_bzero(text, sizeof(text));
	return rc;
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

static int64_t tenant_named(const struct svc_config *config, const char *name)
{
	for (uint32_t i = 0; i < config->tenant_count; i++)
		if (!strcmp(config->tenants[i].name, name))
			return i;
	return -1;
}

uint32_t svc_config_listen_tenant(const struct svc_config *config, const struct svc_listen_config *listen)
{
	const int64_t tenant = tenant_named(config, listen->tenant);

	return tenant < 0 ? 0 : (uint32_t)tenant;
}

static int check_listen(const struct svc_config *config, const struct svc_listen_config *listen)
{
	if (!listen->at.place[0])
		return base_fail(EINVAL, "[listen %s]: no address", listen->name);
	if (listen->tenant[0] && tenant_named(config, listen->tenant) < 0)
		return base_fail(EINVAL, "[listen %s] tenant = %s: there is no [tenant %s]", listen->name, listen->tenant, listen->tenant);
	if (!listen->plain)
		return 0;
	if (!listen->trusted && !is_loopback(&listen->at))
		return base_fail(EINVAL, "[listen %s] plain = yes: %s is no loopback address; what is not encrypted there is everybody's to read "
			"and to forge. Leave it out, or say trusted = yes if nobody else is on that net", listen->name, listen->at.place);
	if (config->tenant_count > 1 && !listen->tenant[0])
		return base_fail(EINVAL, "[listen %s] plain = yes: say whose the connections are (tenant = NAME)", listen->name);
	return 0;
}

static int check_keys(const struct svc_config *config)
{
	unsigned char keys[SCHED_TENANTS_MAX][NET_KEY_BYTES];
	uint32_t count = 0;
	int rc = 0;

	for (uint32_t i = 0; i < config->tenant_count && !rc; i++) {
		if (!config->tenants[i].key_file[0])
			continue;
		rc = svc_config_key(&config->tenants[i], keys[count]);
		for (uint32_t other = 0; other < count && !rc; other++)
			if (!memcmp(keys[other], keys[count], NET_KEY_BYTES))
				rc = base_fail(EINVAL, "[tenant %s] key_file = %s: another tenant has the same key", config->tenants[i].name,
					config->tenants[i].key_file);
		count++;
	}
	explicit_bzero(keys, sizeof(keys));
	return rc;
}

static int check_numbers(const struct svc_config *config)
{
	if (config->net_in_flight + config->net_streams > NET_WINDOW_MAX)
		return base_fail(EINVAL, "[net] in_flight = %lld and streams = %lld: at most %d together", (long long)config->net_in_flight,
			(long long)config->net_streams, NET_WINDOW_MAX);
	if (config->net_connections + config->net_half_open > NET_STREAMS_MAX)
		return base_fail(EINVAL, "[net] connections = %lld and half_open = %lld: at most %d together", (long long)config->net_connections,
			(long long)config->net_half_open, NET_STREAMS_MAX);
	if (config->net_message_bytes * 4 > config->net_memory_bytes)
		return base_fail(EINVAL, "[net] memory = %lld: at least four times message = %lld", (long long)config->net_memory_bytes,
			(long long)config->net_message_bytes);
	return 0;
}

int svc_config_net_check(const struct svc_config *config)
{
	int rc = check_numbers(config);
	bool plain = false, keys = false;

	for (uint32_t i = 0; i < config->listen_count && !rc; i++) {
		rc = check_listen(config, &config->listens[i]);
		plain |= config->listens[i].plain;
	}
	if (!rc)
		rc = check_keys(config);
	for (uint32_t i = 0; i < config->tenant_count; i++)
		keys |= config->tenants[i].key_file[0] != 0;
	if (!rc && config->listen_count && !plain && !keys)
		rc = base_fail(EINVAL, "[listen %s]: nobody can come in: give a [tenant NAME] a key_file, or say plain = yes",
			config->listens[0].name);
	return rc;
}
