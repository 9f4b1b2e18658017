/*
 * How a tool talks to its daemon. See tool_transport.h.
 */
#include "tools/tool_transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base_error.h"

enum { KEY_BYTES = 32 };

const char *const tool_transport_names[] = { "shm", "tcp", "udp", "unix", NULL };

static void add_option(struct tool_transport *transport, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add_option(struct tool_transport *transport, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(transport->options[transport->option_count++], TOOL_TRANSPORT_TEXT_BYTES, format, arguments);
	va_end(arguments);
}

/* A port of the loopback address that nobody has at this moment; -errno with a message. */
static int free_port(int type)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(address);
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), err = 0;

	if (fd < 0)
		return base_fail(errno, "no socket to look for a free port: %s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || getsockname(fd, (struct sockaddr *)&address, &bytes))
		err = base_fail(errno, "no free port on the loopback address: %s", strerror(errno));
	close(fd);
	return err ? err : ntohs(address.sin_port);
}

static int listen_ip(struct tool_transport *transport)
{
	const bool datagrams = transport->kind == TOOL_TRANSPORT_UDP;
	int port = free_port(datagrams ? SOCK_DGRAM : SOCK_STREAM);

	if (port < 0)
		return port;
	add_option(transport, "listen.tool.address=%s:127.0.0.1:%d", tool_transport_names[transport->kind], port);
	snprintf(transport->address, sizeof(transport->address), "%s://127.0.0.1:%d", datagrams ? "attnd+udp" : "attnd", port);
	return 0;
}

static void listen_unix(struct tool_transport *transport, const char *folder)
{
	add_option(transport, "listen.tool.address=unix:%s/net.sock", folder);
	snprintf(transport->address, sizeof(transport->address), "attnd+unix://%s/net.sock", folder);
}

/* 64 hexadecimal digits that nobody else may read. */
static int write_key(const char *path)
{
	unsigned char key[KEY_BYTES];
	char text[2 * KEY_BYTES + 2];
	ssize_t written = -1;
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd >= 0 && getrandom(key, sizeof(key), 0) == sizeof(key)) {
		for (int i = 0; i < KEY_BYTES; i++)
			snprintf(text + 2 * i, 3, "%02x", key[i]);
		written = write(fd, strcat(text, "\n"), 2 * KEY_BYTES + 1);
	}
	if (fd >= 0)
		close(fd);
	explicit_bzero(key, sizeof(key));
	explicit_bzero(text, sizeof(text));
	return written == 2 * KEY_BYTES + 1 ? 0 : base_fail(EIO, "cannot write a key to %s: %s", path, strerror(errno));
}

int tool_transport_prepare(struct tool_transport *transport, const char *folder)
{
	int err = 0;

	transport->option_count = 0;
	transport->key_file[0] = '\0';
	if (transport->kind == TOOL_TRANSPORT_SHM)
		snprintf(transport->address, sizeof(transport->address), "shm:%s/attnd.sock", folder);
	else if (transport->kind == TOOL_TRANSPORT_UNIX)
		listen_unix(transport, folder);
	else
		err = listen_ip(transport);
	if (err || transport->kind == TOOL_TRANSPORT_SHM)
		return err;
	if (!transport->sealed) {
		add_option(transport, "listen.tool.plain=yes");
		return 0;
	}
	snprintf(transport->key_file, sizeof(transport->key_file), "%s/key", folder);
	add_option(transport, "tenant.tool.key_file=%s", transport->key_file);
	/* The tool may attach through shared memory, too. */
	add_option(transport, "tenant.tool.uid=%u", (unsigned)getuid());
	return write_key(transport->key_file);
}

enum tool_transport_kind tool_transport_of(const char *address)
{
	if (strncmp(address, "attnd:", 6) == 0)
		return TOOL_TRANSPORT_TCP;
	if (strncmp(address, "attnd+udp:", 10) == 0)
		return TOOL_TRANSPORT_UDP;
	return strncmp(address, "attnd+unix:", 11) == 0 ? TOOL_TRANSPORT_UNIX : TOOL_TRANSPORT_SHM;
}
