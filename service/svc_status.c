/*
 * What attnctl shows. See svc_status.h.
 */
#include "service/svc_status.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_cpu.h"
#include "base/base_error.h"
#include "base/base_features.h"
#include "base/base_log.h"
#include "service/svc_status_net.h"

/* JSON numbers are doubles: handles and ids, which need all 64 bits, are written as text. */
static void add_number(cJSON *object, const char *name, double value)
{
	cJSON_AddNumberToObject(object, name, value);
}

static void add_hex(cJSON *object, const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%016llx", (unsigned long long)value);
	cJSON_AddStringToObject(object, name, text);
}

static const char *kv_name(unsigned kv)
{
	static const char *const names[] = { "default", "f32", "bf16", "int8", "f16", "fp8", "int4" };

	return kv < sizeof(names) / sizeof(names[0]) ? names[kv] : "?";
}

static const char *tenant_name(const struct svc_config *config, uint32_t tenant)
{
	return tenant < config->tenant_count ? config->tenants[tenant].name : "everybody";
}

/* ---- status --------------------------------------------------------------------------- */

static void add_missing(cJSON *root, const struct svc_daemon *daemon)
{
	cJSON *array = cJSON_AddArrayToObject(root, "missing");

	for (uint32_t i = 0; i < daemon->missing_count; i++) {
		cJSON *item = cJSON_CreateObject();

		cJSON_AddStringToObject(item, "what", daemon->missing[i].what);
		cJSON_AddStringToObject(item, "why", daemon->missing[i].why);
		cJSON_AddItemToArray(array, item);
	}
}

static void add_statuses(cJSON *counters, const struct sched_counters *c)
{
	cJSON *statuses = cJSON_AddObjectToObject(counters, "by_status");
	cJSON *ops = cJSON_AddObjectToObject(counters, "by_op");
	char name[8];

	for (unsigned i = 0; i < ATTND_STATUS_END; i++)
		if (c->by_status[i]) {
			snprintf(name, sizeof(name), "%u", i);
			add_number(statuses, name, (double)c->by_status[i]);
		}
	for (unsigned i = 0; i < ATTND_OP_END; i++)
		if (c->by_op[i]) {
			snprintf(name, sizeof(name), "%u", i);
			add_number(ops, name, (double)c->by_op[i]);
		}
}

static void add_counters(cJSON *object, const struct sched_counters *c)
{
	cJSON *counters = cJSON_AddObjectToObject(object, "counters");
	const struct {
		const char *name;
		uint64_t value;
	} numbers[] = {
		{ "accepted", c->accepted },
		{ "completed", c->completed },
		{ "stream_completions", c->stream_completions },
		{ "gone", c->gone },
		{ "steps", c->steps },
		{ "step_rows", c->step_rows },
		{ "decode_rows", c->decode_rows },
		{ "prefill_rows", c->prefill_rows },
		{ "draft_rows", c->draft_rows },
		{ "drafts_accepted", c->drafts_accepted },
		{ "step_seqs", c->step_seqs },
		{ "attends", c->attends },
		{ "busy_ns", c->busy_ns },
		{ "predicted_ns", c->predicted_ns },
		{ "actual_ns", c->actual_ns },
		{ "parked", c->parked },
		{ "sessions", c->sessions },
		{ "clients", c->clients },
		{ "requests", c->requests },
		{ "blocks_used", c->blocks_used },
		{ "prefix_lookups", c->prefix_lookups },
		{ "prefix_hits", c->prefix_hits },
		{ "prefix_prompt_tokens", c->prefix_prompt_tokens },
		{ "prefix_tokens", c->prefix_tokens },
		{ "prefix_evictions", c->prefix_evictions },
		{ "prefix_pages", c->prefix_pages },
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		add_number(counters, numbers[i].name, (double)numbers[i].value);
	add_number(counters, "prediction_error_median", c->error_median);
	add_number(counters, "prediction_error_p99", c->error_p99);
	add_number(counters, "fair_drift", (double)c->fair_drift_ns);
	add_number(counters, "fair_drift_bound", (double)c->fair_bound_ns);
	add_statuses(counters, c);
}

static void add_kv(cJSON *object, const struct sched_counters *c)
{
	cJSON *kv = cJSON_AddObjectToObject(object, "kv");

	add_number(kv, "total", (double)(c->kv_bytes_used + c->kv_bytes_cached + c->kv_bytes_free + c->kv_bytes_dirty));
	add_number(kv, "used", (double)c->kv_bytes_used);
	add_number(kv, "cached", (double)c->kv_bytes_cached);
	add_number(kv, "dirty", (double)c->kv_bytes_dirty);
	add_number(kv, "free", (double)c->kv_bytes_free);
}

static void add_tenants(cJSON *object, const struct svc_daemon *daemon, const struct svc_probe *probe)
{
	cJSON *array = cJSON_AddArrayToObject(object, "tenants");

	for (uint32_t i = 0; i < probe->tenant_count; i++) {
		const struct sched_tenant_view *view = &probe->tenants[i];
		cJSON *item = cJSON_CreateObject();

		cJSON_AddStringToObject(item, "tenant", tenant_name(&daemon->config, i));
		add_number(item, "weight", view->weight);
		add_number(item, "sessions", view->sessions);
		add_number(item, "requests", view->requests);
		add_number(item, "used_ns", (double)view->used_ns);
		cJSON_AddBoolToObject(item, "held", view->held);
		cJSON_AddItemToArray(array, item);
	}
}

static void add_front(cJSON *root, const struct svc_daemon *daemon)
{
	const struct svc_front_counters *c = svc_front_counters(daemon->front);
	cJSON *front = cJSON_AddObjectToObject(root, "front");
	const struct {
		const char *name;
		const _Atomic uint64_t *value;
	} numbers[] = {
		{ "records", &c->records },
		{ "completions", &c->completions },
		{ "streams", &c->streams },
		{ "bad_record", &c->bad_record },
		{ "bad_op", &c->bad_op },
		{ "bad_range", &c->bad_range },
		{ "queue_full", &c->queue_full },
		{ "dropped", &c->dropped },
		{ "unowed", &c->unowed },
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		add_number(front, numbers[i].name,
			(double)atomic_load_explicit(numbers[i].value, memory_order_relaxed));
	add_number(front, "sleeps",
		(double)atomic_load_explicit(
			&daemon->devices[0].agent.sleeps, memory_order_relaxed));
}

static void add_clients(cJSON *root, struct svc_control *control)
{
	struct svc_daemon *daemon = svc_control_daemon(control);
	cJSON *array = cJSON_AddArrayToObject(root, "clients");
	uint32_t capacity = (uint32_t)daemon->config.max_clients;
	struct svc_client_view *views = calloc(capacity, sizeof(*views));
	uint32_t count = views ? svc_control_clients(control, views, capacity) : 0;

	for (uint32_t i = 0; i < count; i++) {
		cJSON *item = cJSON_CreateObject();
		struct svc_front_view front;

		svc_front_view(daemon->front, views[i].id, &front);
		add_number(item, "id", views[i].id);
		add_number(item, "pid", views[i].pid);
		add_number(item, "uid", views[i].uid);
		cJSON_AddStringToObject(
			item, "tenant", tenant_name(&daemon->config, views[i].tenant));
		add_number(item, "requests", (double)front.requests);
		add_number(item, "completions", (double)front.completions);
		add_number(item, "in_flight", front.in_flight);
		add_number(item, "arena", (double)views[i].arena_bytes);
		cJSON_AddBoolToObject(item, "huge", views[i].huge);
		cJSON_AddBoolToObject(item, "leaving", views[i].leaving);
		cJSON_AddItemToArray(array, item);
	}
	free(views);
}

static void answer_status(struct svc_control *control, cJSON *root)
{
	static const char *const idles[] = { "adaptive", "spin", "sleep" };
	struct svc_daemon *daemon = svc_control_daemon(control);
	cJSON *devices;

	cJSON_AddStringToObject(root, "version", BASE_VERSION);
	add_hex(root, "boot_id", daemon->boot_id);
	add_number(root, "uptime_s", (double)(base_monotonic_ns() - daemon->started_ns) * 1e-9);
	add_number(root, "pid", getpid());
	cJSON_AddStringToObject(root, "cpu", base_cpu()->brand);
	cJSON_AddStringToObject(root, "isa", base_isa_name(base_cpu()->isa));
	cJSON_AddStringToObject(root, "backend", daemon->devices[0].backend->properties.name);
	add_number(root, "workers", daemon->devices[0].backend->properties.workers);
	cJSON_AddStringToObject(root, "idle", idles[daemon->config.idle]);
	add_missing(root, daemon);
	devices = cJSON_AddArrayToObject(root, "devices");
	for (uint32_t i = 0; i < daemon->device_count; i++) {
		struct svc_probe *probe = daemon->devices[i].probe;
		cJSON *item = cJSON_CreateObject();

		cJSON_AddItemToArray(devices, item);
		if (svc_probe_ask(probe)) {
			cJSON_AddStringToObject(item, "error", base_error_message());
			continue;
		}
		add_number(item, "device", i);
		add_kv(item, &probe->counters);
		add_counters(item, &probe->counters);
		add_tenants(item, daemon, probe);
		if (i == 0) { /* most machines have one device: its figures also stand at the top */
			add_kv(root, &probe->counters);
			add_counters(root, &probe->counters);
			add_tenants(root, daemon, probe);
		}
	}
	add_front(root, daemon);
	svc_status_add_network(root, daemon);
	add_clients(root, control);
}

/* ---- the others ----------------------------------------------------------------------- */

static void answer_sessions(struct svc_control *control, cJSON *root)
{
	struct svc_daemon *daemon = svc_control_daemon(control);
	cJSON *array = cJSON_AddArrayToObject(root, "sessions");

	for (uint32_t d = 0; d < daemon->device_count; d++) {
		struct svc_probe *probe = daemon->devices[d].probe;

		if (svc_probe_ask(probe))
			continue;
		for (uint32_t i = 0; i < probe->session_count; i++) {
			const struct sched_session_view *view = &probe->sessions[i];
			cJSON *item = cJSON_CreateObject();
			bool model = view->kind == ATTND_SESSION_MODEL;

			add_hex(item, "handle", view->handle);
			add_number(item, "device", d);
			add_number(item, "client", view->client);
			cJSON_AddStringToObject(
				item, "tenant", tenant_name(&daemon->config, view->tenant));
			cJSON_AddStringToObject(item, "kind", model ? "model" : "attention");
			cJSON_AddStringToObject(item, "model",
				model && view->model < daemon->config.model_count
					? daemon->config.models[view->model].name
					: "-");
			add_number(item, "position", view->position);
			add_number(item, "blocks", view->blocks);
			add_number(item, "queued", view->queued);
			cJSON_AddStringToObject(item, "kv_k", kv_name(view->kv_k));
			cJSON_AddStringToObject(item, "kv_v", kv_name(view->kv_v));
			cJSON_AddItemToArray(array, item);
		}
	}
}

static void add_thread(cJSON *array, const char *role, const char *thread, int cpu, uint32_t node)
{
	cJSON *item = cJSON_CreateObject();

	cJSON_AddStringToObject(item, "role", role);
	cJSON_AddStringToObject(item, "thread", thread);
	add_number(item, "cpu", cpu);
	add_number(item, "node", node);
	cJSON_AddItemToArray(array, item);
}

static void add_threads(cJSON *root, const struct svc_daemon *daemon)
{
	cJSON *array = cJSON_AddArrayToObject(root, "threads");

	for (uint32_t i = 0; i < daemon->device_count; i++) {
		const struct svc_place_device *place = &daemon->place.devices[i];
		uint32_t node = daemon->topo->nodes[place->node].os_index;

		add_thread(array, i ? "scheduler" : "front, scheduler",
			daemon->devices[i].agent.name, place->data_cpu, node);
		for (uint32_t w = 0; w < place->worker_count; w++)
			add_thread(array, "worker", daemon->devices[i].agent.name,
				(int)place->worker_cpus[w], node);
	}
	add_thread(array, "text", daemon->text_agent.name, -1, 0);
	add_thread(array, "control", "attnd", -1, 0);
}

/* Where memory really lies, by move_pages(2): a sum over regions. */
struct memory_sum {
	uint64_t bytes, huge_bytes, pages[BASE_TOPO_NODES];
	bool failed;
};

static void sum_region(void *context, const void *memory, size_t bytes, bool huge)
{
	struct memory_sum *sum = context;
	uint32_t pages[BASE_TOPO_NODES] = { 0 };

	sum->bytes += bytes;
	sum->huge_bytes += huge ? bytes : 0;
	if (base_topo_pages(memory, bytes, pages) < 0)
		sum->failed = true;
	for (uint32_t i = 0; i < BASE_TOPO_NODES; i++)
		sum->pages[i] += pages[i];
}

static void add_memory(cJSON *array, const struct svc_daemon *daemon, const char *what,
	const struct memory_sum *sum)
{
	cJSON *item = cJSON_CreateObject(), *nodes;

	cJSON_AddStringToObject(item, "what", what);
	add_number(item, "bytes", (double)sum->bytes);
	cJSON_AddBoolToObject(item, "huge", sum->bytes > 0 && sum->huge_bytes == sum->bytes);
	nodes = cJSON_AddArrayToObject(item, "nodes");
	cJSON_AddItemToArray(array, item);
	if (sum->failed)
		cJSON_AddStringToObject(item, "error", base_error_message());
	for (uint32_t i = 0; i < daemon->topo->node_count; i++) {
		cJSON *node = cJSON_CreateObject();

		add_number(node, "node", daemon->topo->nodes[i].os_index);
		add_number(node, "pages", (double)sum->pages[i]);
		cJSON_AddItemToArray(nodes, node);
	}
}

static void add_device_memory(cJSON *array, const struct svc_daemon *daemon, uint32_t index)
{
	const struct svc_device *device = &daemon->devices[index];
	struct memory_sum pool = { 0 }, all = { 0 };
	char what[48];
	size_t bytes;
	const void *memory = sched_pool(device->sched, &bytes);

	sum_region(&pool, memory, bytes, false);
	snprintf(what, sizeof(what), "KV pool of device %u", index);
	add_memory(array, daemon, what, &pool);
	if (!device->backend->ops->memory_visit)
		return;
	device->backend->ops->memory_visit(device->backend, sum_region, &all);
	snprintf(what, sizeof(what), "device %u in all, weights too", index);
	add_memory(array, daemon, what, &all);
}

static void answer_topology(struct svc_control *control, cJSON *root)
{
	struct svc_daemon *daemon = svc_control_daemon(control);
	cJSON *memory;
	char *text = NULL;
	size_t length;
	FILE *file = open_memstream(&text, &length);

	if (file) {
		base_topo_print(daemon->topo, file);
		svc_place_print(&daemon->place, daemon->topo, file);
		fclose(file);
		cJSON_AddStringToObject(root, "text", text);
		free(text);
	}
	add_threads(root, daemon);
	memory = cJSON_AddArrayToObject(root, "memory");
	for (uint32_t i = 0; i < daemon->device_count; i++)
		add_device_memory(memory, daemon, i);
}

static void answer_models(struct svc_control *control, cJSON *root)
{
	struct svc_daemon *daemon = svc_control_daemon(control);
	cJSON *array = cJSON_AddArrayToObject(root, "models");

	for (uint32_t i = 0; i < daemon->config.model_count; i++) {
		const struct model_info *info = model_info(daemon->devices[0].models[i]);
		cJSON *item = cJSON_CreateObject();

		add_number(item, "index", i);
		cJSON_AddStringToObject(item, "name", daemon->config.models[i].name);
		cJSON_AddStringToObject(item, "title", info->name);
		cJSON_AddStringToObject(item, "architecture", info->architecture);
		cJSON_AddStringToObject(item, "weights", info->weights);
		add_number(item, "parameters", (double)info->parameters);
		add_number(item, "weight_bytes", (double)info->weight_bytes);
		add_number(item, "vocab", info->vocab);
		add_number(item, "context", info->context);
		add_number(item, "layers", info->layers);
		cJSON_AddStringToObject(item, "state",
			model_damaged(daemon->devices[0].models[i]) ? "failed" : "serving");
		cJSON_AddItemToArray(array, item);
	}
}

static void answer_reload(struct svc_control *control, cJSON *root)
{
	if (svc_control_reload(control))
		cJSON_AddStringToObject(root, "error", base_error_message());
	else
		cJSON_AddStringToObject(root, "done", "reloaded");
}

static void answer_drain(struct svc_control *control, cJSON *root)
{
	svc_control_drain(control);
	cJSON_AddStringToObject(root, "done", "draining");
}

/* The memory itself goes beside these words. */
static void answer_view(struct svc_control *control, cJSON *root)
{
	svc_control_say_alive(control);
	add_number(root, "view", BASE_VIEW_VERSION);
	add_number(root, "bytes", (double)svc_control_daemon(control)->view.bytes);
}

char *svc_status_answer(struct svc_control *control, const char *command, int *fd)
{
	static const struct {
		const char *command;
		void (*answer)(struct svc_control *, cJSON *);
	} answers[] = {
		{ "status", answer_status },
		{ "sessions", answer_sessions },
		{ "topology", answer_topology },
		{ "models", answer_models },
		{ "view", answer_view },
		{ "reload", answer_reload },
		{ "drain", answer_drain },
	};
	cJSON *root = cJSON_CreateObject();
	char *text;

	*fd = strcmp(command, "view") ? -1 : svc_control_daemon(control)->view.read_fd;
	if (!root)
		return NULL;
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
		if (!strcmp(command, answers[i].command))
			answers[i].answer(control, root);
	if (!root->child)
		cJSON_AddStringToObject(root, "error",
			"unknown command: say status, sessions, topology, models, view, reload or drain");
	text = cJSON_PrintUnformatted(root);
	cJSON_Delete(root);
	return text;
}
