/*
 * Which daemon a tool talks to. See tool_daemon.h.
 */
#include "tools/tool_daemon.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_error.h"
#include "tools/tool_args.h"
#include "tools/tool_text.h"

enum {
	MODEL_NAME_BYTES = 48,
	OWN_OPTIONS = 12, /* of the tools themselves, beside the user's */
};
enum { KEY_SPAWN = 0x1000, KEY_ADDRESS, KEY_DAEMON_OPTION, KEY_TRANSPORT, KEY_SEALED, KEY_KEY_FILE };

static const struct argp_option daemon_options[] = {
	{ NULL, 0, NULL, 0, "Which daemon:", 50 },
	{ "spawn", KEY_SPAWN, NULL, 0, "start a private daemon for the duration of this program",
		50 },
	{ "model", 'm', "MODEL", 0,
		"the model: with --spawn a GGUF file, else a name that the daemon knows", 50 },
	{ "address", KEY_ADDRESS, "ADDRESS", 0,
		"a running daemon: shm:PATH, attnd://HOST:PORT (TCP), attnd+udp://HOST:PORT or "
		"attnd+unix:PATH (else $ATTND_ADDRESS, then the usual places of shared memory)",
		50 },
	{ "key-file", KEY_KEY_FILE, "FILE", 0,
		"with --address over a network: the tenant's key (else $ATTND_KEY_FILE; without any "
		"the connection is plain)",
		50 },
	{ "transport", KEY_TRANSPORT, "T", 0,
		"how the private daemon is talked to: shm (default), tcp, udp or unix", 50 },
	{ "sealed", KEY_SEALED, NULL, 0, "over tcp, udp or unix: encrypted, with a key for the occasion", 50 },
	{ "daemon-option", KEY_DAEMON_OPTION, "SECTION.KEY=VALUE", 0,
		"a setting for the private daemon; may be repeated", 50 },
	{ "verbose", 'v', NULL, 0, "show the private daemon's log", 50 },
	{ 0 },
};

void tool_daemon_user_option(struct tool_daemon *daemon, const char *option)
{
	daemon->options[daemon->option_count++] = option;
}

static const char *address_of(const struct tool_daemon *daemon)
{
	const char *address = daemon->address ? daemon->address : getenv("ATTND_ADDRESS");

	return address ? address : "";
}

/* What no option alone can tell. */
static void check(const struct tool_daemon *daemon, const struct argp_state *state)
{
	const struct tool_transport *transport = &daemon->transport;

	if (daemon->spawn && daemon->address)
		argp_error(state, "--spawn starts a daemon of its own; it takes no --address");
	if (!daemon->spawn && daemon->option_count)
		argp_error(state, "--daemon-option needs --spawn");
	if (daemon->spawn && daemon->key_file)
		argp_error(state, "--spawn makes a key of its own with --sealed; it takes no --key-file");
	if (transport->sealed && !daemon->spawn)
		argp_error(state, "--sealed needs --spawn; a running daemon's key comes by --key-file");
	if (transport->sealed && transport->kind == TOOL_TRANSPORT_SHM)
		argp_error(state, "--sealed is for --transport tcp, udp or unix: shared memory is not encrypted");
	if (!daemon->spawn && transport->is_chosen && transport->kind != tool_transport_of(address_of(daemon)))
		argp_error(state, "--transport %s is for --spawn; a running daemon's address says how it is talked to",
			tool_transport_names[transport->kind]);
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct tool_daemon *daemon = state->input;

	switch (key) {
	case KEY_SPAWN:
		daemon->spawn = true;
		return 0;
	case 'm':
		daemon->model = value;
		return 0;
	case KEY_ADDRESS:
		daemon->address = value;
		return 0;
	case KEY_DAEMON_OPTION:
		if (!strchr(value, '='))
			argp_error(
				state, "--daemon-option takes section.key=value, not '%s'", value);
		if (daemon->option_count + OWN_OPTIONS >= TOOL_SPAWN_OPTIONS_MAX)
			argp_error(state, "too many --daemon-option");
		tool_daemon_user_option(daemon, value);
		return 0;
	case 'v':
		daemon->verbose = true;
		return 0;
	case KEY_TRANSPORT:
		daemon->transport.kind = tool_args_choice("--transport", value, tool_transport_names);
		daemon->transport.is_chosen = true;
		return 0;
	case KEY_SEALED:
		daemon->transport.sealed = true;
		return 0;
	case KEY_KEY_FILE:
		daemon->key_file = value;
		return 0;
	case ARGP_KEY_FINI:
		check(daemon, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp tool_daemon_argp = { .options = daemon_options, .parser = parse };

void tool_daemon_default(struct tool_daemon *daemon, const char *option)
{
	memmove(daemon->options + 1, daemon->options,
		daemon->option_count * sizeof(daemon->options[0]));
	daemon->options[0] = option;
	daemon->option_count++;
}

/* The file's name without .gguf, of the letters that a section of a configuration may have. */
static void name_model(char *name, size_t name_bytes, const char *path)
{
	const char *slash = strrchr(path, '/');

	snprintf(name, name_bytes, "%s", slash ? slash + 1 : path);
	size_t length = strlen(name);

	if (length > 5 && strcmp(name + length - 5, ".gguf") == 0)
		name[length - 5] = '\0';
	for (char *at = name; *at; at++)
		if (!isalnum((unsigned char)*at) && !strchr("-_.", *at))
			*at = '-';
}

/* The daemon reads the file itself; looking here first gives the plainer message. */
static void add_model(struct tool_daemon *daemon)
{
	char resolved[PATH_MAX], name[MODEL_NAME_BYTES];

	if (!realpath(daemon->model, resolved) || access(resolved, R_OK))
		tool_die(TOOL_FAILED, "cannot read the model '%s': %s", daemon->model,
			strerror(errno));
	name_model(name, sizeof(name), daemon->model);
	snprintf(daemon->model_option, sizeof(daemon->model_option), "model.%s.path=%s", name,
		resolved);
	tool_daemon_default(daemon, daemon->model_option);
}

/* The transport's options stand before the user's, too. */
static int start(struct tool_daemon *daemon)
{
	const struct tool_transport *transport = &daemon->transport;
	const char *options[TOOL_SPAWN_OPTIONS_MAX + TOOL_TRANSPORT_OPTIONS];
	int err = tool_spawn_prepare(&daemon->spawned);

	if (!err)
		err = tool_transport_prepare(&daemon->transport, daemon->spawned.folder);
	if (err)
		return err;
	for (unsigned i = 0; i < transport->option_count; i++)
		options[i] = transport->options[i];
	memcpy(options + transport->option_count, daemon->options, daemon->option_count * sizeof(options[0]));
	return tool_spawn_start(&daemon->spawned, options, transport->option_count + daemon->option_count, daemon->verbose);
}

void tool_daemon_open(struct tool_daemon *daemon)
{
	int err = -EADDRINUSE;

	if (!daemon->spawn)
		return;
	if (daemon->model)
		add_model(daemon);
	for (int i = 0; i < TOOL_TRANSPORT_TRIES && err == -EADDRINUSE; i++)
		err = start(daemon);
	if (err) {
		tool_spawn_stop(&daemon->spawned);
		tool_die(TOOL_FAILED, "%s", base_error_message());
	}
	snprintf(daemon->shm_address, sizeof(daemon->shm_address), "shm:%s/attnd.sock", daemon->spawned.folder);
	daemon->address = daemon->transport.address;
}

struct attnd_client *tool_daemon_try(struct tool_daemon *daemon, const struct attnd_options *options)
{
	struct attnd_options used = { .struct_bytes = sizeof(used) };
	struct attnd_client *client;

	if (options)
		used = *options;
	used.address = daemon->address;
	/* A private daemon knows no key but its own. */
	used.key_file = daemon->spawn ? daemon->transport.key_file : daemon->key_file;
	return attnd_connect(&client, &used) ? NULL : client;
}

struct attnd_client *tool_daemon_connect(
	struct tool_daemon *daemon, const struct attnd_options *options)
{
	struct attnd_client *client = tool_daemon_try(daemon, options);

	if (client)
		return client;
	if (daemon->spawn)
		tool_spawn_show_log(&daemon->spawned);
	tool_die(TOOL_NO_DAEMON, "%s%s", attnd_error(),
		daemon->spawn || daemon->address ? "" : "; --spawn starts a private daemon");
}

enum tool_transport_kind tool_daemon_transport(const struct tool_daemon *daemon)
{
	return daemon->spawn ? daemon->transport.kind : tool_transport_of(address_of(daemon));
}

bool tool_daemon_is_sealed(const struct tool_daemon *daemon)
{
	const char *key_file = daemon->key_file ? daemon->key_file : getenv("ATTND_KEY_FILE");

	if (daemon->spawn)
		return daemon->transport.sealed;
	return tool_daemon_transport(daemon) != TOOL_TRANSPORT_SHM && key_file && *key_file;
}

const char *tool_daemon_option(
	const struct tool_daemon *daemon, const char *name, const char *fallback)
{
	const size_t length = strlen(name);
	const char *value = fallback;

	for (size_t i = 0; i < daemon->option_count; i++)
		if (strncmp(daemon->options[i], name, length) == 0 && daemon->options[i][length] == '=')
			value = daemon->options[i] + length + 1;
	return value;
}

uint32_t tool_daemon_model(
	struct tool_daemon *daemon, struct attnd_client *client, struct attnd_model_info *info)
{
	struct attnd_daemon_info about;
	uint32_t index = 0;

	if (attnd_describe_daemon(client, &about))
		tool_die(TOOL_FAILED, "cannot ask the daemon what it is: %s", attnd_error());
	if (about.models == 0)
		tool_die(TOOL_FAILED, "the daemon has no model; give one with --model%s",
			daemon->spawn ? " FILE" : " in its configuration");
	if (!daemon->spawn && daemon->model) {
		int found = attnd_model_by_name(client, daemon->model);

		if (found < 0)
			tool_die(TOOL_FAILED,
				"the daemon has no model '%s'; `attnctl models` lists what it has",
				daemon->model);
		index = (uint32_t)found;
	}
	if (attnd_describe_model(client, index, info))
		tool_die(TOOL_FAILED, "cannot ask the daemon about its model: %s", attnd_error());
	return index;
}

int tool_daemon_failed(int err, const char *doing)
{
	tool_say("%s: %s", doing, *attnd_error() ? attnd_error() : strerror(-err));
	return err == -ENOTCONN ? TOOL_NO_DAEMON : TOOL_FAILED;
}

const char *tool_daemon_shm_address(const struct tool_daemon *daemon)
{
	return daemon->spawn ? daemon->shm_address : daemon->address;
}

void tool_daemon_control_path(const struct tool_daemon *daemon, char *path, size_t path_bytes)
{
	const char *address = daemon->spawn ? daemon->shm_address : address_of(daemon);
	const char *user = getenv("XDG_RUNTIME_DIR");

	if (tool_transport_of(address) != TOOL_TRANSPORT_SHM)
		tool_die(TOOL_USAGE, "%s: a daemon is controlled on its own machine; give the address of its shared memory, "
			"shm:/run/attnd/attnd.sock", address);
	/* The usual places, as the library has them: the user's own daemon, then the system's. */
	if (!*address) {
		snprintf(path, path_bytes, "%s/attnd/attnd.ctl", user ? user : "");
		if (!user || access(path, F_OK))
			snprintf(path, path_bytes, "/run/attnd/attnd.ctl");
		return;
	}
	if (strncmp(address, "shm:", 4) == 0)
		address += 4;

	const char *slash = strrchr(address, '/');

	if (slash)
		snprintf(path, path_bytes, "%.*s/attnd.ctl", (int)(slash - address), address);
	else
		snprintf(path, path_bytes, "attnd.ctl");
}

int tool_daemon_close(struct tool_daemon *daemon, int status)
{
	if (tool_spawn_stop(&daemon->spawned) == 0)
		return status;
	tool_say("%s", base_error_message());
	return TOOL_FAILED;
}
