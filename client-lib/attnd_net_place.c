/*
 * Where a daemon is on the network, and the key to it. Cold; client's thread.
 */
#include "client-lib/attnd_net.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base_error.h"
#include "netio/net_hello.h"

enum { HOST_BYTES = 254, KEY_FILE_BYTES_MAX = 256 };

/* ---- hosts --------------------------------------------------------------------------------------------------- */

static int port_parse(const char *text, char port[6])
{
	char *end;
	const long number = strtol(text, &end, 10);

	if (end == text || *end || number <= 0 || number > UINT16_MAX)
		return -EINVAL;
	snprintf(port, 6, "%ld", number);
	return 0;
}

/* "host:port", "[::1]:port", without a port the usual one. */
static int host_parse(const char *text, char host[HOST_BYTES], char port[6])
{
	const bool bracketed = text[0] == '[';
	const char *begin = text + bracketed, *end = bracketed ? strchr(begin, ']') : begin + strcspn(begin, ":");

	if (!end || end == begin || end - begin >= HOST_BYTES)
		return -EINVAL;
	memcpy(host, begin, (size_t)(end - begin));
	host[end - begin] = 0;
	end += bracketed;
	snprintf(port, 6, "%d", CLIENT_PORT);
	if (!*end)
		return 0;
	return *end == ':' ? port_parse(end + 1, port) : -EINVAL;
}

static int host_find(struct client_place *place, const char *text)
{
	const struct addrinfo wanted = { .ai_family = AF_UNSPEC,
		.ai_socktype = place->kind == CLIENT_PLACE_UDP ? SOCK_DGRAM : SOCK_STREAM,
		.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV };
	char host[HOST_BYTES], port[6];
	struct addrinfo *found;
	int rc;

	if (host_parse(text, host, port))
		return base_fail(EINVAL, "address \"%s\": write //host:port, IPv6 addresses in brackets: //[::1]:%d", text, CLIENT_PORT);
	rc = getaddrinfo(host, port, &wanted, &found);
	if (rc)
		return base_fail(rc == EAI_SYSTEM ? errno : ENOENT, "host \"%s\": %s", host, gai_strerror(rc));
	for (const struct addrinfo *at = found; at && place->count < CLIENT_PLACES_MAX; at = at->ai_next) {
		memcpy(&place->at[place->count].address, at->ai_addr, at->ai_addrlen);
		place->at[place->count++].bytes = at->ai_addrlen;
	}
	freeaddrinfo(found);
	return 0;
}

static int unix_find(struct client_place *place, const char *path)
{
	struct sockaddr_un *address = (struct sockaddr_un *)&place->at[0].address;

	if (path[0] != '/')
		return base_fail(EINVAL, "address \"%s\": write attnd+unix:///path/of/the/socket", path);
	if (strlen(path) >= sizeof(address->sun_path))
		return base_fail(ENAMETOOLONG, "socket %s: a socket's path has at most %zu characters", path, sizeof(address->sun_path) - 1);
	address->sun_family = AF_UNIX;
	strcpy(address->sun_path, path);
	place->at[0].bytes = sizeof(*address);
	place->count = 1;
	return 0;
}

int client_place_find(struct client_place *place, enum client_place_kind kind, const char *text)
{
	const bool has_slashes = text[0] == '/' && text[1] == '/';

	*place = (struct client_place){ .kind = kind };
	if (kind == CLIENT_PLACE_UNIX)
		return unix_find(place, has_slashes ? text + 2 : text);
	return has_slashes ? host_find(place, text + 2) : base_fail(EINVAL, "address \"%s\": write //host:port behind the colon", text);
}

/* ---- keys ---------------------------------------------------------------------------------------------------- */

/* As for the daemon's: what everybody can read proves nothing. */
static int check_mode(const char *path, int fd)
{
	struct stat status;

	if (fstat(fd, &status))
		return base_fail(errno, "key file %s: %s", path, strerror(errno));
	return status.st_mode & (S_IRWXO | S_IWGRP) ? base_fail(EPERM, "key file %s: others may read it; chmod 600 it", path) : 0;
}

int client_key_read(const char *path, unsigned char key[NET_KEY_BYTES], bool *is_there)
{
	char text[KEY_FILE_BYTES_MAX];
	ssize_t bytes = 0;
	int fd, rc;

	path = path ? path : getenv("ATTND_KEY_FILE");
	*is_there = path && path[0];
	if (!*is_there)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return base_fail(errno, "key file %s: %s", path, strerror(errno));
	rc = check_mode(path, fd);
	if (!rc)
		bytes = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (rc)
		return rc;
	text[bytes > 0 ? bytes : 0] = 0;
	if (net_key_parse(text, key))
		rc = base_fail(EINVAL, "key file %s: a key is 64 hexadecimal digits", path);
	explicit_bzero(text, sizeof(text));
	return rc;
}
