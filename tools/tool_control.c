/*
 * Asks the daemon's control socket. See tool_control.h.
 */
#include "tools/tool_control.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base_error.h"

static int dial(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval bound = { .tv_sec = TOOL_CONTROL_TIMEOUT_MS / 1000 };

	if (strlen(path) >= sizeof(address.sun_path))
		return base_fail(
			ENAMETOOLONG, "the socket's path '%s' is longer than Linux allows", path);
	strcpy(address.sun_path, path);

	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return base_fail(errno, "no socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof(bound));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;

	int err = errno;

	close(fd);
	if (err == ENOENT || err == ECONNREFUSED)
		return base_fail(err, "no daemon answers at %s", path);
	return base_fail(err, "cannot talk to the daemon at %s: %s", path, strerror(err));
}

/* Reads to the end of file into a buffer that grows up to the bound. */
static int read_all(int fd, char **text)
{
	size_t room = 64 << 10, length = 0;
	char *buffer = malloc(room);
	ssize_t part = 1;

	while (buffer && part > 0) {
		if (length + 1 == room) {
			char *more =
				room < TOOL_CONTROL_ANSWER_MAX ? realloc(buffer, room *= 2) : NULL;

			if (!more)
				break;
			buffer = more;
		}
		part = recv(fd, buffer + length, room - 1 - length, 0);
		if (part > 0)
			length += (size_t)part;
	}
	if (buffer && part == 0 && length > 0) {
		buffer[length] = '\0';
		*text = buffer;
		return 0;
	}
	int err = part < 0 ? errno : 0;

	free(buffer);
	if (err == EAGAIN)
		return base_fail(ETIMEDOUT, "the daemon did not answer within %d s",
			TOOL_CONTROL_TIMEOUT_MS / 1000);
	return base_fail(EPROTO, "the daemon closed the connection without a whole answer");
}

int tool_control_ask(const char *path, const char *word, char **answer)
{
	char line[64];
	int fd = dial(path);

	if (fd < 0)
		return fd;

	int length = snprintf(line, sizeof(line), "%s\n", word);
	int status;

	if (send(fd, line, (size_t)length, MSG_NOSIGNAL) == length)
		status = read_all(fd, answer);
	else
		status = base_fail(EPIPE, "the daemon at %s hung up", path);
	close(fd);
	return status;
}

const cJSON *tool_json_member(const cJSON *object, const char *name)
{
	char part[64];

	while (object && *name) {
		size_t length = strcspn(name, ".");

		snprintf(part, sizeof(part), "%.*s", (int)length, name);
		object = cJSON_GetObjectItemCaseSensitive(object, part);
		name += length + (name[length] == '.');
	}
	return object;
}

double tool_json_number(const cJSON *object, const char *name)
{
	const cJSON *member = tool_json_member(object, name);

	return cJSON_IsNumber(member) ? member->valuedouble : 0;
}

const char *tool_json_string(const cJSON *object, const char *name)
{
	const cJSON *member = tool_json_member(object, name);

	return cJSON_IsString(member) ? member->valuestring : "";
}

void tool_json_add(cJSON *object, const char *name, double value, int decimals)
{
	double scale = pow(10, decimals);

	cJSON_AddNumberToObject(object, name, round(value * scale) / scale);
}
