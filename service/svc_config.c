/*
 * The table of settings and what is made of it. See svc_config.h.
 */
#include "service/svc_config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/base_error.h"
#include "base/base_log.h"
#include "sched/sched_draft.h"
#include "service/svc_config_net.h"

enum setting_type {
	SETTING_TEXT,
	SETTING_COUNT,
	SETTING_SIZE,
	SETTING_CHOICE,
	SETTING_FLAG,
	SETTING_CPUS
};

struct setting {
	const char *section, *key;
	enum setting_type type;
	size_t offset, bytes; /* bytes: of a text's buffer */
	int64_t min, max;     /* min SVC_AUTO: "auto" is allowed */
	const char *choices;  /* "auto yes no": the value is the word's index, plus min */
	const char *initial, *meaning;
};

#define AT(field) offsetof(struct svc_config, field)
#define ROOM(field) AT(field), sizeof(((struct svc_config *)0)->field)
#define K INT64_C(1024)

static const struct setting settings[] = {
	{ "daemon", "runtime_dir", SETTING_TEXT, ROOM(runtime_dir), 0, 0, NULL, "/run/attnd",
		"Folder of the sockets attnd.sock (clients) and attnd.ctl (attnctl)." },
	{ "daemon", "log_level", SETTING_TEXT, ROOM(log_level), 0, 0, NULL, "info",
		"debug, info, warn or error." },
	{ "daemon", "log_file", SETTING_TEXT, ROOM(log_file), 0, 0, NULL, "",
		"A file to append the log to; empty: standard error." },

	{ "shm", "socket_mode", SETTING_TEXT, ROOM(socket_mode), 0, 0, NULL, "0660",
		"Permissions of attnd.sock, in octal: who may try to attach. Whom they are let in as, the tenants say." },
	{ "shm", "huge_pages", SETTING_CHOICE, AT(huge_pages), 0, 0, 0, "auto yes no", "auto",
		"Huge pages under clients' segments: yes refuses a client when there are none." },
	{ "shm", "max_clients", SETTING_COUNT, AT(max_clients), 0, 1, 4096, NULL, "1024",
		"Clients attached at a time." },
	{ "shm", "arena_max", SETTING_SIZE, AT(arena_max_bytes), 0, 64 * K, 64 * K *K *K, NULL,
		"256M", "Largest arena of one client; a client that asks for more gets this." },
	{ "shm", "clients_memory", SETTING_SIZE, AT(clients_bytes_max), 0, 1024 * K,
		64 * K * K * K * K, NULL, "4G", "Memory of all clients' segments together." },
	{ "shm", "submission_slots", SETTING_COUNT, AT(submission_slots), 0, 16, 65536, NULL,
		"4096", "Largest submission ring." },
	{ "shm", "completion_slots", SETTING_COUNT, AT(completion_slots), 0, 16, 65536, NULL,
		"16384", "Largest completion ring." },
	{ "shm", "timelines", SETTING_COUNT, AT(timelines), 0, 0, 65536, NULL, "256",
		"Requests of its own that each client sees with their times, on each device, 256 bytes for each; a power of two, or 0." },
	{ "shm", "attach_per_second", SETTING_COUNT, AT(attach_per_second), 0, 1, 1000000, NULL,
		"2000",
		"Attaches per second; more wait. Attaching is the only thing a client does that takes memory from the system." },

	{ "placement", "workers", SETTING_COUNT, AT(workers), 0, SVC_AUTO, 255, NULL, "auto",
		"Compute threads of each device besides its scheduler's thread, which computes too; auto: one for each further core." },
	{ "placement", "front_cpu", SETTING_COUNT, AT(front_cpu), 0, SVC_AUTO, 4095, NULL, "auto",
		"Processor of the front." },
	{ "placement", "worker_cpus", SETTING_CPUS, AT(worker_cpus), 0, 0, 0, NULL, "auto",
		"Processors of the workers: 1,2,5 or auto." },
	{ "placement", "nodes", SETTING_CHOICE, AT(nodes), 0, 0, 0, "all first", "all",
		"all: each NUMA node is a device with its own copy of the weights; first: only the first one serves." },
	{ "placement", "idle", SETTING_CHOICE, AT(idle), 0, 0, 0, "adaptive spin sleep", "adaptive",
		"What a thread does when there is nothing to do: spin for ever, sleep at once, or spin spin_us and then sleep." },
	{ "placement", "spin_us", SETTING_COUNT, AT(spin_us), 0, 0, 10000000, NULL, "200",
		"See idle." },
	{ "placement", "cpu_dma_latency", SETTING_FLAG, AT(cpu_dma_latency), 0, 0, 1, NULL, "yes",
		"Hold /dev/cpu_dma_latency at 0 while serving, so that a sleeping thread wakes in microseconds." },
	{ "placement", "fifo", SETTING_FLAG, AT(fifo), 0, 0, 1, NULL, "no",
		"SCHED_FIFO for the data path. Only with a core for each thread: a spinning FIFO thread starves its core." },

	{ "kv", "pool", SETTING_SIZE, AT(kv_pool_bytes), 0, SVC_AUTO, 1024 * K *K *K *K, NULL,
		"auto",
		"Memory for KV caches, taken at start, of each device; auto: a quarter of the node's memory, at most 2G." },
	{ "kv", "default", SETTING_CHOICE, AT(kv_default), 0, KERN_KV_F32, 0, "f32 bf16 int8 f16 fp8 int4",
		"bf16", "Format of sessions that name none." },
	{ "kv", "prefix_cache", SETTING_FLAG, AT(prefix_cache), 0, 0, 1, NULL, "yes",
		"Keep the pages of prompts and answers, where nobody wants their room, for prompts that begin in the same way." },

	{ "limits", "sessions", SETTING_COUNT, AT(sessions), 0, 1, 65536, NULL, "1024",
		"Open sessions, of each device." },
	{ "limits", "requests", SETTING_COUNT, AT(requests), 0, 16, 1048576, NULL, "16384",
		"Requests accepted and not completed, of all clients." },
	{ "limits", "client_requests", SETTING_COUNT, AT(client_requests), 0, 1, 32768, NULL, "256",
		"The same, of one client." },
	{ "limits", "tokens", SETTING_COUNT, AT(tokens), 0, 64, 4194304, NULL, "8192",
		"Tokens of one session." },
	{ "limits", "step_rows", SETTING_COUNT, AT(step_rows), 0, 1, 8192, NULL, "256",
		"Rows (tokens) of one step over all sessions." },
	{ "limits", "prefill_chunk", SETTING_COUNT, AT(prefill_chunk), 0, 1, 8192, NULL, "256",
		"Rows of one session in one step." },
	{ "limits", "out_rows", SETTING_COUNT, AT(out_rows), 0, 1, 8192, NULL, "64",
		"Output rows of one step." },
	{ "limits", "speculate", SETTING_COUNT, AT(speculate), 0, 0, SCHED_DRAFT_MOST, NULL, "15",
		"Tokens that a stream may guess ahead in one step, where that pays; 0: none. What it says does not depend on it." },
	{ "limits", "calibrate_ms", SETTING_COUNT, AT(calibrate_ms), 0, 0, 60000, NULL, "300",
		"At start, time for each model to be measured, so that the first deadlines are judged by what a step takes; 0: they are guessed." },

	{ "net", "transport", SETTING_CHOICE, AT(net_transport), 0, 0, 0, "auto io_uring sockets", "auto",
		"How sockets are read and written; auto: io_uring, and plain calls where the kernel will not have it." },
	{ "net", "connections", SETTING_COUNT, AT(net_connections), 0, 1, 65536, NULL, "1024", "Connections at a time, of all listeners." },
	{ "net", "half_open", SETTING_COUNT, AT(net_half_open), 0, 1, 65536, NULL, "256",
		"Connections that have not proved yet who they are; the oldest one makes room for the next." },
	{ "net", "in_flight", SETTING_COUNT, AT(net_in_flight), 0, 1, 1023, NULL, "64", "Unfinished requests of one connection." },
	{ "net", "streams", SETTING_COUNT, AT(net_streams), 0, 16, 1023, NULL, "64",
		"Tokens on their way to one connection that it has not taken yet." },
	{ "net", "window", SETTING_SIZE, AT(net_window_bytes), 0, 4 * K, 1024 * K *K, NULL, "4M",
		"Memory for the requests of one connection, and as much for its results; one request may always have more." },
	{ "net", "message", SETTING_SIZE, AT(net_message_bytes), 0, 4 * K, 256 * K *K, NULL, "16M",
		"The longest input or output of a request." },
	{ "net", "memory", SETTING_SIZE, AT(net_memory_bytes), 0, 64 * K, 64 * K *K *K, NULL, "256M",
		"Memory for the requests and results of all connections." },
	{ "net", "resume_ms", SETTING_COUNT, AT(net_resume_ms), 0, 0, 3600000, NULL, "10000",
		"How long a connection that broke may be gone on with: its sessions and requests are kept." },
	{ "net", "hello_ms", SETTING_COUNT, AT(net_hello_ms), 0, 10, 60000, NULL, "2000", "How long a connection may be half open." },
	{ "net", "idle_s", SETTING_COUNT, AT(net_idle_s), 0, 1, 86400, NULL, "300", "How long a UDP connection may be silent." },
	{ "net", "slow_s", SETTING_COUNT, AT(net_slow_s), 0, 1, 3600, NULL, "10",
		"How long a connection may hold memory that others wait for, and take or send nothing." },
	{ "net", "cookies", SETTING_FLAG, AT(net_cookies), 0, 0, 1, NULL, "no",
		"Always have UDP clients show that they are where they say; no: only when many are half open." },
};

enum { SETTING_COUNT_ALL = sizeof(settings) / sizeof(settings[0]) };

/* ---- values --------------------------------------------------------------------------- */

static int bad_value(const char *section, const char *key, const char *value, const char *wanted)
{
	return base_fail(EINVAL, "[%s] %s = %s: %s", section, key, value, wanted);
}

/* A whole number with an optional k, m, g or t (powers of 1024). */
static int parse_number(const char *value, bool size, int64_t *number)
{
	char *end;
	int shift = 0;

	errno = 0;
	long long parsed = strtoll(value, &end, 10);

	if (errno || end == value)
		return -EINVAL;
	if (size && *end) {
		const char *units = "kmgt", *unit = strchr(units, tolower((unsigned char)*end));

		if (!unit)
			return -EINVAL;
		shift = 10 * (int)(unit - units + 1);
		end++;
		if (tolower((unsigned char)*end) == 'b')
			end++;
	}
	if (*end || parsed < 0 || parsed > INT64_MAX >> shift)
		return -EINVAL;
	*number = (int64_t)parsed << shift;
	return 0;
}

static int parse_flag(const char *value, bool *flag)
{
	static const char *const words[] = { "no", "yes", "off", "on", "false", "true", "0", "1" };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcasecmp(value, words[i])) {
			*flag = i & 1;
			return 0;
		}
	return -EINVAL;
}

static int parse_choice(const char *choices, const char *value, int64_t *index)
{
	size_t length = strlen(value);

	*index = 0;
	for (const char *word = choices; *word; (*index)++) {
		size_t word_length = strcspn(word, " ");

		if (word_length == length && !strncasecmp(word, value, length))
			return 0;
		word += word_length;
		word += *word == ' ';
	}
	return -EINVAL;
}

static int parse_cpus(const char *value, struct svc_cpu_list *list)
{
	list->count = 0;
	if (!strcasecmp(value, "auto"))
		return 0;
	while (*value) {
		char *end;
		unsigned long cpu = strtoul(value, &end, 10);

		if (end == value || cpu > 4095 || list->count == SVC_CPUS_MAX)
			return -EINVAL;
		list->cpus[list->count++] = (uint32_t)cpu;
		value = end + strspn(end, ", ");
		if (value == end && *end)
			return -EINVAL;
	}
	return list->count ? 0 : -EINVAL;
}

static int parse_text(
	const char *section, const char *key, const char *value, char *text, size_t bytes)
{
	if (strlen(value) >= bytes)
		return base_fail(EINVAL, "[%s] %s is longer than %zu bytes: shorten it", section,
			key, bytes - 1);
	memset(text, 0, bytes);
	memcpy(text, value, strlen(value));
	return 0;
}

static int parse_range(const struct setting *s, const char *value, int64_t *number)
{
	bool size = s->type == SETTING_SIZE;

	if (s->min == SVC_AUTO && !strcasecmp(value, "auto")) {
		*number = SVC_AUTO;
		return 0;
	}
	if (parse_number(value, size, number) || *number < s->min || *number > s->max)
		return base_fail(EINVAL, "[%s] %s = %s: give a %s from %lld to %lld%s", s->section,
			s->key, value, size ? "size such as 64M" : "whole number",
			(long long)(s->min < 0 ? 0 : s->min), (long long)s->max,
			s->min == SVC_AUTO ? ", or auto" : "");
	return 0;
}

static int set_value(struct svc_config *config, const struct setting *s, const char *value)
{
	unsigned char *at = (unsigned char *)config + s->offset;
	int64_t number = 0;
	bool flag;
	int rc;

	switch (s->type) {
	case SETTING_TEXT: return parse_text(s->section, s->key, value, (char *)at, s->bytes);
	case SETTING_CPUS:
		if (parse_cpus(value, (struct svc_cpu_list *)at))
			return bad_value(s->section, s->key, value,
				"give processors such as 1,2,3, or auto");
		return 0;
	case SETTING_FLAG:
		if (parse_flag(value, &flag))
			return bad_value(s->section, s->key, value, "say yes or no");
		memcpy(at, &flag, sizeof(flag));
		return 0;
	case SETTING_CHOICE:
		if (parse_choice(s->choices, value, &number))
			return base_fail(EINVAL, "[%s] %s = %s: choose one of: %s", s->section,
				s->key, value, s->choices);
		number += s->min;
		break;
	case SETTING_COUNT:
	case SETTING_SIZE:
		rc = parse_range(s, value, &number);
		if (rc)
			return rc;
		break;
	}
	memcpy(at, &number, sizeof(number));
	return 0;
}

/* ---- [model NAME] and [tenant NAME] --------------------------------------------------- */

static int model_set(
	struct svc_config *config, const char *name, const char *key, const char *value)
{
	uint32_t i = 0;

	while (i < config->model_count && strcmp(config->models[i].name, name))
		i++;
	if (i == SCHED_MODELS_MAX)
		return base_fail(
			EINVAL, "more than %d models: remove [model %s]", SCHED_MODELS_MAX, name);
	if (strcmp(key, "path"))
		return bad_value("model", key, value, "unknown key; a model has: path");
	struct svc_model_config *model = &config->models[i];

	if (i == config->model_count) {
		int rc = parse_text("model", "name", name, model->name, sizeof(model->name));

		if (rc)
			return rc;
		config->model_count++;
	}
	return parse_text("model", key, value, model->path, sizeof(model->path));
}

static struct svc_tenant_config *tenant_find(struct svc_config *config, const char *name)
{
	uint32_t i = 0;

	while (i < config->tenant_count && strcmp(config->tenants[i].name, name))
		i++;
	if (i == SCHED_TENANTS_MAX)
		return NULL;
	struct svc_tenant_config *tenant = &config->tenants[i];

	if (i == config->tenant_count) {
		*tenant = (struct svc_tenant_config){ .uid = -1,
			.gid = -1,
			.models = "*",
			.attention = true,
			.clients = 65536,
			.sessions = 65536,
			.kv_bytes = INT64_MAX,
			.weight = 1 };
		config->tenant_count++;
	}
	return tenant;
}

static int tenant_set(
	struct svc_config *config, const char *name, const char *key, const char *value)
{
	struct svc_tenant_config *tenant = tenant_find(config, name);

	if (!tenant)
		return base_fail(EINVAL, "more than %d tenants: remove [tenant %s]",
			SCHED_TENANTS_MAX, name);
	int rc = parse_text("tenant", "name", name, tenant->name, sizeof(tenant->name));
	const struct {
		const char *key;
		int64_t *number;
		int64_t max;
		bool size;
		int64_t min;
	} numbers[] = {
		{ "uid", &tenant->uid, UINT32_MAX, false, 0 },
		{ "gid", &tenant->gid, UINT32_MAX, false, 0 },
		{ "clients", &tenant->clients, 65536, false, 0 },
		{ "sessions", &tenant->sessions, 65536, false, 0 },
		{ "kv", &tenant->kv_bytes, INT64_MAX, true, 0 },
		{ "weight", &tenant->weight, 1000, false, 1 },
		{ "requests", &tenant->requests, UINT32_MAX, false, 0 },
		{ "device_ms", &tenant->device_ms, 1000, false, 0 },
		{ "device_burst_ms", &tenant->device_burst_ms, 60000, false, 0 },
	};

	if (rc)
		return rc;
	if (!strcmp(key, "models"))
		return parse_text("tenant", key, value, tenant->models, sizeof(tenant->models));
	if (!strcmp(key, "attention"))
		return parse_flag(value, &tenant->attention)
			? bad_value("tenant", key, value, "say yes or no")
			: 0;
	if (!strcmp(key, "key_file"))
		return parse_text("tenant", key, value, tenant->key_file, sizeof(tenant->key_file));
	if (!strcmp(key, "group"))
		return parse_text("tenant", key, value, tenant->group, sizeof(tenant->group));
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		if (strcmp(key, numbers[i].key))
			continue;
		if (parse_number(value, numbers[i].size, numbers[i].number) ||
			*numbers[i].number > numbers[i].max || *numbers[i].number < numbers[i].min)
			return bad_value("tenant", key, value, "not a number in range");
		return 0;
	}
	return bad_value("tenant", key, value,
		"unknown key; a tenant has: uid gid models clients sessions kv attention weight requests device_ms "
		"device_burst_ms group key_file");
}

/* ---- the ways in ---------------------------------------------------------------------- */

static int set_key(
	struct svc_config *config, const char *section, const char *key, const char *value)
{
	if (!strncmp(section, "model ", 6))
		return model_set(config, section + 6, key, value);
	if (!strncmp(section, "tenant ", 7))
		return tenant_set(config, section + 7, key, value);
	if (!strncmp(section, "listen ", 7))
		return svc_config_listen_set(config, section + 7, key, value);
	for (size_t i = 0; i < SETTING_COUNT_ALL; i++)
		if (!strcmp(settings[i].section, section) && !strcmp(settings[i].key, key))
			return set_value(config, &settings[i], value);
	return base_fail(EINVAL, "[%s] %s: no such setting; `attnd --print-config` lists them all",
		section, key);
}

void svc_config_defaults(struct svc_config *config)
{
	memset(config, 0, sizeof(*config));
	for (size_t i = 0; i < SETTING_COUNT_ALL; i++)
		set_value(config, &settings[i], settings[i].initial);
}

struct file_state {
	struct svc_config *config;
	bool failed;
};

static int on_pair(void *context, const char *section, const char *key, const char *value)
{
	struct file_state *state = context;

	if (!state->failed && set_key(state->config, section, key, value))
		state->failed = true; /* the first message is the one to keep */
	return !state->failed;
}

int svc_config_file(struct svc_config *config, const char *path)
{
	struct file_state state = { .config = config };
	FILE *file = fopen(path, "re");

	if (!file)
		return base_fail(errno, "configuration %s: %s", path, strerror(errno));
	int line = ini_parse_file(file, on_pair, &state);

	fclose(file);
	if (state.failed)
		return base_fail_within(EINVAL, "%s line %d", path, line);
	if (line)
		return base_fail(
			EINVAL, "%s line %d: neither [section] nor key = value", path, line);
	return 0;
}

int svc_config_set(struct svc_config *config, const char *assignment)
{
	char text[SVC_PATH_BYTES + 2 * SVC_NAME_BYTES];
	const char *equals = strchr(assignment, '=');

	if (!equals || strlen(assignment) >= sizeof(text))
		return base_fail(EINVAL, "-o %.200s: write section.key=value", assignment);
	strcpy(text, assignment);
	char *value = text + (equals - assignment);

	*value++ = 0;
	char *dot = strrchr(text, '.');

	if (!dot)
		return base_fail(EINVAL, "-o %.200s: write section.key=value", assignment);
	*dot = 0;
	char *name = strchr(text, '.'); /* model.NAME.path is [model NAME] path */

	if (name)
		*name = ' ';
	return set_key(config, text, dot + 1, value);
}

/* ---- the whole ------------------------------------------------------------------------ */

static bool power_of_two(int64_t value)
{
	return value > 0 && !(value & (value - 1));
}

static bool model_known(const struct svc_config *config, const char *name, size_t length)
{
	for (uint32_t i = 0; i < config->model_count; i++)
		if (strlen(config->models[i].name) == length &&
			!strncmp(config->models[i].name, name, length))
			return true;
	return false;
}

static int check_tenant(const struct svc_config *config, const struct svc_tenant_config *tenant)
{
	const char *word = tenant->models;

	if (!strcmp(word, "*"))
		return 0;
	while (*(word += strspn(word, " ,"))) {
		size_t length = strcspn(word, " ,");

		if (!model_known(config, word, length))
			return base_fail(EINVAL, "[tenant %s] models: there is no [model %.*s]",
				tenant->name, (int)length, word);
		word += length;
	}
	return 0;
}

int svc_config_check(const struct svc_config *config)
{
	enum base_log_level level;

	if (base_log_level_parse(config->log_level, &level))
		return bad_value("daemon", "log_level", config->log_level,
			"choose debug, info, warn or error");
	if (svc_config_socket_mode(config) < 0)
		return bad_value("shm", "socket_mode", config->socket_mode,
			"give three or four octal digits, such as 0660");
	if (!power_of_two(config->submission_slots) || !power_of_two(config->completion_slots))
		return base_fail(
			EINVAL, "[shm] submission_slots and completion_slots are powers of two");
	if (config->timelines && !power_of_two(config->timelines))
		return base_fail(EINVAL, "[shm] timelines = %lld: a power of two, or 0 for none", (long long)config->timelines);
	if (config->completion_slots < 2 * config->client_requests)
		return base_fail(EINVAL,
			"[shm] completion_slots = %lld: at least twice [limits] client_requests = %lld, because every "
			"accepted request holds the slot of its final completion",
			(long long)config->completion_slots, (long long)config->client_requests);
	if (config->prefill_chunk > config->step_rows || config->out_rows > config->step_rows)
		return base_fail(EINVAL,
			"[limits] prefill_chunk and out_rows are at most step_rows = %lld",
			(long long)config->step_rows);
	for (uint32_t i = 0; i < config->model_count; i++)
		if (access(config->models[i].path, R_OK))
			return base_fail(errno, "[model %s] path = %s: %s", config->models[i].name,
				config->models[i].path, strerror(errno));
	for (uint32_t i = 0; i < config->tenant_count; i++) {
		int rc = check_tenant(config, &config->tenants[i]);

		if (rc)
			return rc;
	}
	return svc_config_net_check(config);
}

int svc_config_socket_mode(const struct svc_config *config)
{
	char *end;
	unsigned long mode = strtoul(config->socket_mode, &end, 8);

	return end == config->socket_mode || *end || mode > 0777 ? -EINVAL : (int)mode;
}

void svc_config_print_defaults(FILE *file)
{
	const char *section = "";

	fputs("# attnd's configuration. Every setting is shown at its default; remove the # to change it.\n"
	      "# `attnd -t -c FILE` checks a file; attnd.conf(5) says more.\n",
		file);
	for (size_t i = 0; i < SETTING_COUNT_ALL; i++) {
		const struct setting *s = &settings[i];

		if (strcmp(section, s->section))
			fprintf(file, "\n[%s]\n", s->section);
		section = s->section;
		fprintf(file, "# %s\n", s->meaning);
		if (s->choices)
			fprintf(file, "# One of: %s.\n", s->choices);
		fprintf(file, "#%s = %s\n", s->key, s->initial);
	}
	fputs("\n# A model to serve; the name is what clients ask for. May repeat.\n"
	      "#[model default]\n#path = /var/lib/attnd/model.gguf\n"
	      "\n# Who may attach, and to how much; the first entry that fits a client's uid and gid counts, and without any entry everybody\n"
	      "# who can open the socket may. kv is a size such as 512M; models is * or names.\n"
	      "#[tenant strategies]\n#uid = 1000\n#gid = 1000\n#models = *\n#attention = yes\n"
	      "#clients = 16\n#sessions = 64\n#kv = 512M\n"
	      "# Its share of device time beside tenants that want theirs, by weight. Unfinished requests of all its clients,\n"
	      "# and milliseconds of device time in a second, with a burst saved up: of each device, 0 for no limit.\n"
	      "#weight = 1\n#requests = 0\n#device_ms = 0\n#device_burst_ms = 0\n"
	      "# Tenants that name the same group find each other's cached prefixes, and can tell so from times; others never do.\n"
	      "#group = research\n"
	      "# Whoever has this key comes in over the network as this tenant: a file of 64 hexadecimal digits (openssl rand -hex 32).\n"
	      "#key_file = /etc/attnd/strategies.key\n"
	      "\n# Where to listen: tcp:ADDRESS:PORT, udp:ADDRESS:PORT or unix:/PATH; IPv6 in brackets. May repeat. With plain = yes also\n"
	      "# connections without a key, as that tenant: on loopback, or where trusted = yes says that nobody else is on that net.\n"
	      "#[listen lan]\n#address = tcp:0.0.0.0:7747\n#plain = no\n#trusted = no\n#tenant = strategies\n",
		file);
}

int svc_config_tenant(const struct svc_config *config, uint32_t uid, uint32_t gid)
{
	if (!config->tenant_count)
		return 0;
	for (uint32_t i = 0; i < config->tenant_count; i++) {
		const struct svc_tenant_config *tenant = &config->tenants[i];

		/* Who has only a key comes by the network. */
		if (tenant->key_file[0] && tenant->uid < 0 && tenant->gid < 0)
			continue;
		if ((tenant->uid < 0 || tenant->uid == uid) &&
			(tenant->gid < 0 || tenant->gid == gid))
			return (int)i;
	}
	return -ENOENT;
}
