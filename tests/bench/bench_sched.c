/*
 * What the scheduler itself costs with a thousand live sessions: a request that is admitted or refused, and a step, on a modelled
 * device that takes no time. Real time of sched_poll, medians; the memory is warm. Time limit: 120 s
 *
 *   bench_sched [TIMELINES]    of each client, 1024; 0: clients see none
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base_assert.h"
#include "sched/sched.h"
#include "tests/sim/sim_device.h"

enum { SESSIONS = 1000, STEP_ROWS = 512, TENANTS_MAX = 64, BATCH = 32, ROUNDS = 41, WARM_ROUNDS = 64, PROMPT = 600 };

/* What waits while it is measured. */
static const struct scene {
	const char *name;
	uint32_t step_rows, prompts, streams;
	bool promised;
} SCENES[] = {
	{ "prompts, no deadlines", STEP_ROWS, SESSIONS, 0, false },
	{ "prompts with deadlines", STEP_ROWS, SESSIONS, 0, true },
	{ "streams", STEP_ROWS, 0, SESSIONS, false },
	{ "streams, all in a step", 2 * STEP_ROWS, 0, SESSIONS, false },
	{ "8 streams, others idle", 2 * STEP_ROWS, 0, 8, false },
};

static const uint32_t zeros[PROMPT];
static unsigned char outs[64], generates[TENANTS_MAX + PROMPT * 4];
static struct base_clock fake;
static struct base_spsc in, out;
static struct sched *sched;
static struct sim_device *device;
static uint64_t handles[SESSIONS + 1];
static uint32_t handle_count, timelines = 1024;
static struct base_view_own_device *views[TENANTS_MAX];

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void drain(void)
{
	const struct sched_reply *reply;

	for (; (reply = base_spsc_peek(&out)) != NULL; base_spsc_release(&out))
		if (reply->completion.request_id <= SESSIONS + 1 && reply->completion.value && handle_count <= SESSIONS)
			handles[handle_count++] = reply->completion.value;
}

static void settle(void)
{
	for (int i = 0; i < 8; i++) {
		sched_poll(sched);
		drain();
	}
}

static void send(uint32_t kind, uint32_t client, struct attnd_request record, const void *input, uint32_t argument)
{
	struct sched_message message = { .record = record, .kind = kind, .client = client, .argument = argument,
		.credits = 1u << 30, .received_ns = fake.fake_ns, .in = input, .out = record.out_capacity ? outs : NULL };

	message.record.version = ATTND_VERSION;
	if (kind == SCHED_CLIENT_ADD && timelines) {
		const size_t bytes = sizeof(struct attnd_view_own) + timelines * sizeof(struct attnd_timeline);

		free(views[client]);
		views[client] = malloc(bytes);
		BASE_ASSERT(views[client] != NULL);
		memset(views[client], 0, bytes);
		message.out = views[client];
		message.slots = timelines;
	}
	while (!base_spsc_push(&in, &message))
		settle();
}

static struct attnd_request step_of(uint32_t session, uint32_t rows)
{
	const struct attnd_step_args args = { .output = ATTND_OUT_ARGMAX };
	struct attnd_request record = { .op = ATTND_OP_STEP, .session = handles[session], .argument = rows,
		.in_bytes = rows * 4, .out_capacity = sizeof(outs), .request_id = 1000000, .priority_class = ATTND_CLASS_INTERACTIVE };

	memcpy(&record.args, &args, sizeof(args));
	return record;
}

static void land(void)
{
	const int64_t next_ns = sim_device_next_ns(device);

	if (next_ns != INT64_MAX)
		fake.fake_ns = next_ns;
}

static int compare(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static double median(int64_t *values, uint32_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return (double)values[count / 2];
}

static void begin(uint32_t tenant_count, uint32_t step_rows)
{
	static struct sched_tenant tenants[TENANTS_MAX];
	static struct kern_program program;
	static struct model_info info;
	static struct sched_model model;
	const struct sim_device_options device_options = { .clock = &fake, .work_ns = 1000000, .row_ns = 1000, .visit_ps = 10,
		.kib_ns = 20, .host_memory = true, .no_results = true };
	struct sched_options options = { .struct_bytes = sizeof(options), .clock = &fake, .lanes = { { &in, &out, 1024 } },
		.lane_count = 1, .models = &model, .model_count = 1, .tenants = tenants, .tenant_count = tenant_count,
		.boot_id = 77, .kv_default = KERN_KV_F32, .kv_bytes = 1u << 30, .kv_extent_bytes = 1 << 20, .sessions_max = SESSIONS + 1,
		.requests_max = 8192, .client_requests_max = 8000, .tokens_max = 2048, .step_rows_max = step_rows,
		.prefill_chunk = step_rows, .out_rows_max = step_rows, .build = "bench" };
	static const struct attnd_open_params open = { .struct_bytes = sizeof(open), .kind = ATTND_SESSION_MODEL };

	handle_count = 0;
	base_clock_init_fake(&fake, 1000000000);
	device = sim_device_create(&device_options);
	for (uint32_t t = 0; t < tenant_count; t++)
		tenants[t] = (struct sched_tenant){ .models = 1, .sessions_max = SESSIONS + 1, .kv_bytes_max = UINT64_MAX / 2, .weight = 1 };
	sim_program_init(&program, 64, 16, step_rows, step_rows);
	info = (struct model_info){ .name = "bench", .parameters = 20000, .weight_bytes = 80000, .vocab = 64, .width = 16, .layers = 1,
		.heads = 2, .kv_heads = 1, .head_dim = 8, .context = 4096 };
	model = (struct sched_model){ .program = &program, .info = &info };
	options.backend = sim_device_backend(device);
	BASE_ASSERT(base_spsc_create(&in, 16384, sizeof(struct sched_message)) == 0 &&
		base_spsc_create(&out, 32768, sizeof(struct sched_reply)) == 0 && sched_create(&sched, &options) == 0);
	for (uint32_t c = 0; c < tenant_count; c++)
		send(SCHED_CLIENT_ADD, c, (struct attnd_request){ 0 }, NULL, c);
	for (uint32_t s = 0; s <= SESSIONS; s++) {
		send(SCHED_REQUEST, s % tenant_count,
			(struct attnd_request){ .op = ATTND_OP_OPEN, .in_bytes = sizeof(open), .request_id = s + 1 }, &open, 0);
		settle();
	}
	BASE_ASSERT(handle_count == SESSIONS + 1);
	for (int i = 0; i < 40; i++) {
		send(SCHED_REQUEST, 0, step_of(0, 20), zeros, 0);
		settle();
		land();
		settle();
	}
}

static void end(void)
{
	fake.fake_ns += INT64_C(1000000000000);
	sched_flights_wait(sched);
	sched_destroy(sched);
	sim_device_destroy(device);
	base_spsc_destroy(&in);
	base_spsc_destroy(&out);
}

/* Of client 0, which has sessions of its own tenant's; taken back after each batch. */
static double request_ns(int64_t slack_ns)
{
	int64_t times[ROUNDS];

	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < BATCH; i++) {
			struct attnd_request record = step_of(0, 20);

			record.request_id += i;
			record.deadline_ns = fake.fake_ns + slack_ns;
			send(SCHED_REQUEST, 0, record, zeros, 0);
		}
		times[round] = now_ns();
		sched_poll(sched);
		times[round] = (now_ns() - times[round]) / BATCH;
		drain();
		for (uint32_t i = 0; i < BATCH; i++)
			send(SCHED_REQUEST, 0, (struct attnd_request){ .op = ATTND_OP_CANCEL, .args = 1000000 + i, .request_id = 999999 },
				NULL, 0);
		settle();
	}
	return median(times, ROUNDS);
}

/* The poll that forms a step, and the one that delivers what it brought. First all queues are gone through once, whose pages nobody
 * has touched yet. */
static void steps_ns(double *form_ns, double *finish_ns)
{
	int64_t form[ROUNDS], finish[ROUNDS];

	for (uint32_t round = 0; round < WARM_ROUNDS + ROUNDS; round++) {
		const uint32_t at = round % ROUNDS;

		land();
		finish[at] = now_ns();
		sched_poll(sched);
		finish[at] = now_ns() - finish[at];
		form[at] = now_ns();
		sched_poll(sched);
		form[at] = now_ns() - form[at];
		drain();
	}
	*form_ns = median(form, ROUNDS);
	*finish_ns = median(finish, ROUNDS);
}

static void prompts_wait(uint32_t tenant_count, uint32_t count, bool promised)
{
	for (uint32_t s = 1; s <= count; s++) {
		struct attnd_request record = step_of(s, PROMPT);

		record.deadline_ns = promised ? fake.fake_ns + INT64_C(3600000000000) + s * INT64_C(1000000) : 0;
		send(SCHED_REQUEST, s % tenant_count, record, zeros, 0);
	}
	for (int i = 0; i < 50; i++)
		settle();
}

static void streams_run(uint32_t tenant_count, uint32_t count)
{
	const struct attnd_generate_params params = { .struct_bytes = sizeof(params), .max_tokens = 1000 };

	memcpy(generates, &params, sizeof(params));
	for (uint32_t s = 1; s <= count; s++)
		send(SCHED_REQUEST, s % tenant_count,
			(struct attnd_request){ .op = ATTND_OP_GENERATE, .session = handles[s], .argument = 1,
				.in_bytes = sizeof(params) + 4, .request_id = 2000000 + s },
			generates, 0);
	for (int i = 0; i < 50; i++)
		settle();
}

int main(int argc, char **argv)
{
	static const uint32_t counts[] = { 1, 4, TENANTS_MAX };

	if (argc > 1)
		timelines = (uint32_t)strtoul(argv[1], NULL, 10);
	BASE_ASSERT((timelines & (timelines - 1)) == 0);
	printf("%u sessions; microseconds\n%-8s %-24s %10s %10s %10s %10s %12s\n", SESSIONS, "tenants", "what waits", "step rows", "admitted",
		"refused", "form step", "finish step");
	for (uint32_t c = 0; c < sizeof(counts) / sizeof(*counts); c++) {
		for (const struct scene *scene = SCENES; scene < SCENES + sizeof(SCENES) / sizeof(*SCENES); scene++) {
			double admitted_ns, refused_ns, form_ns, finish_ns;

			begin(counts[c], scene->step_rows);
			prompts_wait(counts[c], scene->prompts, scene->promised);
			streams_run(counts[c], scene->streams);
			admitted_ns = request_ns(INT64_C(7200000000000));
			refused_ns = request_ns(1);
			steps_ns(&form_ns, &finish_ns);
			printf("%-8u %-24s %10u %10.2f %10.2f %10.1f %12.1f\n", counts[c], scene->name, scene->step_rows, admitted_ns / 1e3,
				refused_ns / 1e3, form_ns / 1e3, finish_ns / 1e3);
			end();
		}
	}
	return 0;
}
