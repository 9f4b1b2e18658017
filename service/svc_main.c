/*
 * attnd: the daemon's command line. Reads the configuration, builds the daemon, serves until it is
 * told to stop.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/base_cpu.h"
#include "base/base_error.h"
#include "base/base_features.h"
#include "base/base_log.h"
#include "service/svc_control.h"
#include "service/svc_notify.h"

enum { OVERRIDES_MAX = 256, KEY_READY_FD = 256, KEY_PRINT, KEY_EXIT_USAGE = 2 };

struct arguments {
	const char *config_path;
	bool test, print;
	int ready_fd;
	uint32_t override_count;
	const char *overrides[OVERRIDES_MAX];
};

static const struct argp_option options[] = {
	{ "config", 'c', "FILE", 0, "Read FILE (default: /etc/attnd.conf where it exists)", 0 },
	{ "test", 't', NULL, 0, "Check the configuration, say what is wrong with it, and exit", 0 },
	{ "option", 'o', "SECTION.KEY=VALUE", 0,
		"Set one value on top of the file, such as -o placement.workers=0 or "
		"-o model.default.path=model.gguf; may repeat",
		0 },
	{ "print-config", KEY_PRINT, NULL, 0,
		"Print a commented configuration with every default, and exit", 0 },
	{ "ready-fd", KEY_READY_FD, "N", 0,
		"Write \"ready\" to descriptor N when serving, or \"failed: REASON\"", 0 },
	{ 0 }
};

static error_t parse_option(int key, char *value, struct argp_state *state)
{
	struct arguments *arguments = state->input;
	char *end;

	switch (key) {
	case 'c': arguments->config_path = value; return 0;
	case 't': arguments->test = true; return 0;
	case 'o':
		if (arguments->override_count == OVERRIDES_MAX)
			argp_error(state, "more than %d -o options", OVERRIDES_MAX);
		arguments->overrides[arguments->override_count++] = value;
		return 0;
	case KEY_PRINT: arguments->print = true; return 0;
	case KEY_READY_FD:
		arguments->ready_fd = (int)strtol(value, &end, 10);
		if (end == value || *end || arguments->ready_fd < 0 ||
			fcntl(arguments->ready_fd, F_SETFD, FD_CLOEXEC))
			argp_error(state, "--ready-fd %s: not an open descriptor", value);
		return 0;
	case ARGP_KEY_ARG: argp_error(state, "%s: attnd takes options only", value); return 0;
	default: return ARGP_ERR_UNKNOWN;
	}
}

static void print_version(FILE *file, struct argp_state *state)
{
	(void)state;
	fprintf(file, "attnd %s (%s; hwloc %s)\n", BASE_VERSION, base_isa_name(base_cpu()->isa),
		BASE_HAVE_HWLOC ? "yes" : "no");
}

/* The file, then the -o options on top, then the check of the whole. */
static int read_config(struct svc_config *config, struct arguments *arguments)
{
	int rc = 0;

	svc_config_defaults(config);
	if (!arguments->config_path && !access("/etc/attnd.conf", R_OK))
		arguments->config_path = "/etc/attnd.conf";
	if (arguments->config_path)
		rc = svc_config_file(config, arguments->config_path);
	for (uint32_t i = 0; !rc && i < arguments->override_count; i++)
		rc = svc_config_set(config, arguments->overrides[i]);
	return rc ? rc : svc_config_check(config);
}

static int open_log(const struct svc_config *config)
{
	enum base_log_level level;

	base_log_level_parse(config->log_level, &level); /* checked before */
	base_log_set_level(level);
	if (!config->log_file[0])
		return 0;
	int fd = open(config->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);

	if (fd < 0)
		return base_fail(
			errno, "[daemon] log_file %s: %s", config->log_file, strerror(errno));
	base_log_to(fd);
	return 0;
}

/* Signals come by signalfd to the control thread; no other thread may take them. */
static void block_signals(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* A client costs three descriptors: take as many as the hard limit allows. */
static void raise_file_limit(void)
{
	struct rlimit files;

	if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
}

/* One line of the log for each line that `print` writes. */
static void log_lines(const char *event, void (*print)(const struct svc_daemon *daemon, FILE *file),
	const struct svc_daemon *daemon)
{
	char *text = NULL;
	size_t length;
	FILE *file = open_memstream(&text, &length);

	if (!file)
		return;
	print(daemon, file);
	fclose(file);
	for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1)
		base_log(BASE_LOG_INFO, "control", event, "what=\"%.*s\"", (int)(end - line), line);
	free(text);
}

static void print_machine(const struct svc_daemon *daemon, FILE *file)
{
	base_topo_print(daemon->topo, file);
}

static void print_placement(const struct svc_daemon *daemon, FILE *file)
{
	svc_place_print(&daemon->place, daemon->topo, file);
}

static void log_ready(const struct svc_daemon *daemon)
{
	log_lines("machine", print_machine, daemon);
	log_lines("placed", print_placement, daemon);
	base_log(BASE_LOG_INFO, "control", "ready",
		"socket=%s/attnd.sock backend=\"%s\" models=%u milliseconds=%lld",
		daemon->config.runtime_dir, daemon->devices[0].backend->properties.name,
		daemon->config.model_count,
		(long long)(base_monotonic_ns() - daemon->started_ns) / 1000000);
}

static int serve(const struct svc_config *config, struct arguments *arguments)
{
	static struct svc_daemon daemon;
	struct svc_control *control = NULL;
	int rc = svc_daemon_create(&daemon, config);

	if (rc)
		return rc;
	rc = svc_control_create(&control, &daemon, arguments->config_path, arguments->overrides,
		arguments->override_count);
	if (!rc)
		rc = svc_daemon_start(&daemon);
	if (!rc) {
		log_ready(&daemon);
		svc_notify("READY=1");
		svc_notify_fd(arguments->ready_fd, "ready");
		arguments->ready_fd = -1;
		rc = svc_control_run(control);
	}
	svc_daemon_stop(&daemon);
	svc_control_destroy(control);
	svc_daemon_destroy(&daemon);
	return rc;
}

int main(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, NULL,
		"Serves attention and small transformers to local processes through shared memory.\v"
		"Exit status: 0 after a clean stop, 1 when it could not start, 2 for a wrong option or configuration.",
		NULL, NULL, NULL };
	static struct svc_config config;
	struct arguments arguments = { .ready_fd = -1 };
	char line[BASE_ERROR_BYTES + 16];

	argp_program_version_hook = print_version;
	argp_err_exit_status = KEY_EXIT_USAGE;
	argp_parse(&argp, argc, argv, 0, NULL, &arguments);
	if (arguments.print) {
		svc_config_print_defaults(stdout);
		return 0;
	}
	if (read_config(&config, &arguments)) {
		fprintf(stderr, "attnd: %s\n", base_error_message());
		svc_notify_fd(arguments.ready_fd, "failed: configuration");
		return KEY_EXIT_USAGE;
	}
	if (arguments.test) {
		printf("attnd: configuration is fine: %u models, %u tenants\n", config.model_count,
			config.tenant_count);
		return 0;
	}
	block_signals();
	raise_file_limit();
	if (open_log(&config) || serve(&config, &arguments)) {
		base_log(
			BASE_LOG_ERROR, "control", "failed", "reason=\"%s\"", base_error_message());
		snprintf(line, sizeof(line), "failed: %s", base_error_message());
		svc_notify_fd(arguments.ready_fd, line);
		return 1;
	}
	return 0;
}
