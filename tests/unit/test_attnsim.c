/*
 * The simulator's parts that the system test cannot see into: traces line by line, residuals, and the time that the
 * modelled device takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_error.h"
#include "tools/attnsim_device.h"
#include "tools/attnsim_trace.h"

#define HEADER "TIMESTAMP,ContextTokens,GeneratedTokens\n"

static int parse(struct attnsim_trace *trace, const char *text)
{
	return attnsim_trace_parse(trace, "some.csv", text, strlen(text));
}

/* Refused with a message that has both texts in it, and nothing is left. */
static void refused(const char *text, const char *where, const char *what)
{
	struct attnsim_trace trace;

	assert_true(parse(&trace, text) < 0);
	assert_non_null(strstr(base_error_message(), where));
	assert_non_null(strstr(base_error_message(), what));
	assert_null(trace.requests);
	assert_int_equal(trace.count, 0);
}

/* ---- traces ---------------------------------------------------------------------------- */

static void azure(void **state)
{
	struct attnsim_trace trace;

	(void)state;
	assert_int_equal(parse(&trace,
				 HEADER "2023-12-31 23:59:59.5,374,44\r\n\n2024-01-01 00:00:01.2500001,5,6\n"
					"2024-03-01 00:00:00,7,8"),
		0);
	assert_string_equal(trace.kind, "azure");
	assert_int_equal(trace.count, 3);
	assert_int_equal(trace.requests[0].arrival_ns, 0);
	assert_int_equal(trace.requests[0].prompt, 374);
	assert_int_equal(trace.requests[0].output, 44);
	/* Over a year's end, and a leap day. */
	assert_int_equal(trace.requests[1].arrival_ns, 1750000100);
	assert_int_equal(trace.requests[2].arrival_ns, 500000000 + INT64_C(60) * 86400 * 1000000000);
	assert_int_equal(attnsim_trace_longest(&trace), 418);
	attnsim_trace_free(&trace);
}

static void azure_sorted(void **state)
{
	struct attnsim_trace trace;

	(void)state;
	assert_int_equal(parse(&trace, HEADER "2023-11-16 18:00:04,1,1\n2023-11-16 18:00:02,2,2\n"), 0);
	assert_int_equal(trace.requests[0].prompt, 2);
	assert_int_equal(trace.requests[1].arrival_ns, 2000000000);
	assert_true(attnsim_trace_rate(&trace) == 0.5);
	attnsim_trace_free(&trace);
}

static void azure_refused(void **state)
{
	(void)state;
	refused("", "some.csv:1:", "header");
	refused(HEADER, "some.csv", "no requests");
	refused("time,tokens\n1,2\n", "some.csv:1:", "time,tokens");
	refused(HEADER "2023-11-16 18:00:04,1,1\nyesterday,1,1\n", "some.csv:3:", "yesterday");
	refused(HEADER "2023-13-16 18:00:04,1,1\n", "some.csv:2:", "2023-13");
	refused(HEADER "2023-11-16 18:00:04,1\n", "some.csv:2:", "two numbers");
	refused(HEADER "2023-11-16 18:00:04,1,1,1\n", "some.csv:2:", "two numbers");
	refused(HEADER "2023-11-16 18:00:04,-1,1\n", "some.csv:2:", "-1");
	refused(HEADER "2023-11-16 18:00:04,0,1\n", "some.csv:2:", "1 to 1048576");
	refused(HEADER "2023-11-16 18:00:04,1,1048577\n", "some.csv:2:", "1 to 1048576");
	refused(HEADER "2023-11-16 18:00:04,1,99999999999999999999\n", "some.csv:2:", "two numbers");
	refused(HEADER "2023-11-16 18:00:04,1,1\n1999-11-16 18:00:04,1,1\n", "some.csv", "a year");
}

static void mooncake(void **state)
{
	struct attnsim_trace trace;

	(void)state;
	assert_int_equal(parse(&trace,
				 "{\"timestamp\": 1000, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1, 2]}\n"
				 "{\"timestamp\": 1500, \"input_length\": 9, \"output_length\": 1, \"hash_ids\": [0, 1, 9]}\n"
				 "{\"timestamp\": 1500, \"input_length\": 9, \"output_length\": 1}\n"),
		0);
	assert_string_equal(trace.kind, "mooncake");
	assert_int_equal(trace.count, 3);
	assert_int_equal(trace.requests[1].arrival_ns, 500000000);
	assert_int_equal(trace.requests[1].hash_first, 3);
	assert_int_equal(trace.requests[1].hash_count, 3);
	assert_int_equal(trace.hashes[5], 9);
	/* Two of six were seen before. */
	assert_true(attnsim_trace_reuse(&trace) > 0.333 && attnsim_trace_reuse(&trace) < 0.334);
	attnsim_trace_free(&trace);
}

static void mooncake_refused(void **state)
{
	(void)state;
	refused("{\"timestamp\": 0", "some.csv:1:", "JSON object");
	refused("{}\n", "some.csv:1:", "timestamp");
	refused("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}\n[1]\n", "some.csv:2:", "[1]");
	refused("{\"timestamp\": 0, \"input_length\": \"1\", \"output_length\": 1}\n", "some.csv:1:", "input_length");
	refused("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 0}\n", "some.csv:1:", "1 to 1048576");
	refused("{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}\n", "some.csv:1:", "timestamp");
	refused("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": 7}\n", "some.csv:1:", "no list");
	refused("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [-7]}\n", "some.csv:1:", "hash_ids");
	refused("{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1} 7\n", "some.csv:1:", "follows");
}

static void made_up(void **state)
{
	struct attnsim_trace one, same, other, crowds;
	uint32_t together = 0;

	(void)state;
	assert_int_equal(attnsim_trace_make(&one, 4000, 1, 7), 0);
	assert_int_equal(attnsim_trace_make(&same, 4000, 1, 7), 0);
	assert_int_equal(attnsim_trace_make(&other, 4000, 1, 8), 0);
	assert_int_equal(attnsim_trace_make(&crowds, 4000, 32, 7), 0);
	assert_memory_equal(one.requests, same.requests, sizeof(*one.requests) * one.count);
	assert_memory_not_equal(one.requests, other.requests, sizeof(*one.requests) * one.count);
	assert_true(attnsim_trace_rate(&one) > 0.9 && attnsim_trace_rate(&one) < 1.1);
	assert_true(attnsim_trace_rate(&crowds) > 0.6 && attnsim_trace_rate(&crowds) < 1.5);
	for (size_t i = 1; i < crowds.count; i++)
		together += crowds.requests[i].arrival_ns == crowds.requests[i - 1].arrival_ns;
	assert_in_range(together, 3700, 3950);
	attnsim_trace_free(&one);
	attnsim_trace_free(&same);
	attnsim_trace_free(&other);
	attnsim_trace_free(&crowds);
}

/* ---- residuals ------------------------------------------------------------------------- */

static int residuals(struct attnsim_noise *noise, const char *text)
{
	return attnsim_noise_parse(noise, "residuals", text, strlen(text));
}

static void noise(void **state)
{
	struct attnsim_noise noise;

	(void)state;
	assert_int_equal(residuals(&noise, "# measured\n2.0\n\n1.0 \r\n1.5\n"), 0);
	assert_int_equal(noise.count, 3);
	assert_true(attnsim_noise_at(&noise, 0.0) == 1.0);
	assert_true(attnsim_noise_at(&noise, 0.25) == 1.25);
	assert_true(attnsim_noise_at(&noise, 0.75) == 1.75);
	assert_true(attnsim_noise_at(&noise, 0.9999999999) > 1.999);
	attnsim_noise_free(&noise);
	assert_true(residuals(&noise, "1.0\nfast\n") < 0);
	assert_non_null(strstr(base_error_message(), "residuals:2: 'fast'"));
	assert_true(residuals(&noise, "0\n") < 0);
	assert_true(residuals(&noise, "nan\n") < 0);
	assert_true(residuals(&noise, "# nothing\n") < 0);
	/* The built-in one has a median of one and a tail. */
	attnsim_noise_builtin(&noise);
	assert_true(attnsim_noise_at(&noise, 0.5) > 0.99 && attnsim_noise_at(&noise, 0.5) < 1.01);
	assert_true(attnsim_noise_at(&noise, 0.9999) > 1.5 && noise.source[0] != '\0');
	attnsim_noise_free(&noise);
}

/* ---- time ------------------------------------------------------------------------------ */

static void step_time(void **state)
{
	const struct attnsim_machine machine = { .name = "m",
		.devices = 1,
		.bytes_per_s = 1e9,
		.operations_per_s = 1e12,
		.overhead_ns = 1000 };
	const struct attnsim_model *model = attnsim_model_find("135m");
	const double weights_ns = (double)attnsim_weight_bytes(model);
	const struct attnsim_load one = { .rows = 1, .outs = 1, .visits = 1 };
	const struct attnsim_load cached = { .rows = 1, .outs = 1, .visits = 1, .kv_bytes = 1000000 };
	const struct attnsim_load many = { .rows = 4096, .outs = 1, .visits = 4096 };
	const struct attnsim_load deep = { .rows = 4096, .outs = 1, .visits = 4096 * 1000 };
	const double row_ops = 2.0 * (double)attnsim_row_weights(model);

	(void)state;
	/* Bound by bytes: the weights once, and the cache; then by operations. */
	assert_true(attnsim_step_ns(&machine, model, &one) == 1000 + (int64_t)weights_ns);
	assert_int_equal(attnsim_step_ns(&machine, model, &cached) - attnsim_step_ns(&machine, model, &one), 1000000);
	assert_true((double)attnsim_step_ns(&machine, model, &many) > 4096 * row_ops * 1e-3);
	assert_true((double)attnsim_step_ns(&machine, model, &many) < 4096 * row_ops * 1e-3 * 1.05);
	/* Four operations for each row, key and channel of 30 layers of 9 heads of 64. */
	assert_in_range(attnsim_step_ns(&machine, model, &deep) - attnsim_step_ns(&machine, model, &many),
		(int64_t)(4096 * 999 * 4.0 * 30 * 9 * 64 * 1e-3) - 2, (int64_t)(4096 * 999 * 4.0 * 30 * 9 * 64 * 1e-3) + 2);
}

static void ideal_time(void **state)
{
	const struct attnsim_machine *machine = attnsim_machine_find("gpu");
	const struct attnsim_model *model = attnsim_model_find("8b");
	struct kern_program program;
	int64_t one_ns, two_ns;

	(void)state;
	attnsim_program(&program, model, KERN_KV_INT8, 512, 64);
	assert_int_equal((uint64_t)program.vocab * program.width, UINT64_C(128256) * 4096);
	one_ns = attnsim_ideal_ns(machine, model, &program.kv, 512, 512);
	two_ns = attnsim_ideal_ns(machine, model, &program.kv, 1024, 512);
	assert_true(two_ns > 2 * one_ns && two_ns < 3 * one_ns);
	assert_true(attnsim_ideal_ns(machine, model, &program.kv, 1, 512) > machine->overhead_ns);
}

/* A step through the backend: it lands when its time is over, not before, and says whose token it was. */
static void backend(void **state)
{
	struct base_clock clock;
	struct attnsim_noise twice = { .ratios = (double[]){ 2.0 }, .count = 1 };
	struct attnsim_device_options options = { .clock = &clock,
		.machine = attnsim_machine_find("cpu2"),
		.model = attnsim_model_find("135m"),
		.noise = &twice,
		.busy_until_ns = INT64_MAX };
	struct kern_program program;
	float logits[64];
	const uint32_t tokens[2] = { 3, 5 };
	unsigned char *const *blocks = NULL;
	struct kern_seq seqs[2];
	struct kern_out out = { .row = 1, .logits = logits };
	struct kern_work work = { .kind = KERN_WORK_STEP };
	const struct attnsim_load load = { .rows = 2, .outs = 1, .visits = 2 };
	struct attnsim_device *device;
	struct kern_backend *table;
	kern_ticket ticket;
	int64_t expected_ns;

	(void)state;
	base_clock_init_fake(&clock, 1000);
	device = attnsim_device_create(&options);
	table = attnsim_device_backend(device);
	attnsim_program(&program, options.model, KERN_KV_INT8, 8, 8);
	for (uint32_t i = 0; i < 2; i++)
		seqs[i] = (struct kern_seq){ .row = i, .rows = 1, .blocks = blocks, .kv = &program.kv };
	work.step = (struct kern_step){
		.program = &program, .rows = 2, .seq_count = 2, .out_count = 1, .tokens = tokens, .seqs = seqs, .outs = &out
	};
	assert_int_equal(attnsim_device_next_ns(device), INT64_MAX);
	assert_int_equal(table->ops->submit(table, &work, &ticket), 0);
	expected_ns = 2 * attnsim_step_ns(options.machine, options.model, &load);
	assert_in_range(attnsim_device_next_ns(device), 1000 + expected_ns, 1000 + expected_ns * 101 / 100);
	clock.fake_ns = attnsim_device_next_ns(device) - 1;
	assert_int_equal(table->ops->poll(table, ticket), 0);
	clock.fake_ns++;
	assert_int_equal(table->ops->poll(table, ticket), 1);
	for (uint32_t i = 0; i < 64; i++)
		assert_true((logits[i] > 0.5f) == (i == 5));
	assert_int_equal(attnsim_device_stats(device)->tenant_ns[3], attnsim_device_stats(device)->tenant_ns[5]);
	assert_int_equal(attnsim_device_stats(device)->busy_ns, clock.fake_ns - 1000);
	table->ops->destroy(table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(azure),
		cmocka_unit_test(azure_sorted),
		cmocka_unit_test(azure_refused),
		cmocka_unit_test(mooncake),
		cmocka_unit_test(mooncake_refused),
		cmocka_unit_test(made_up),
		cmocka_unit_test(noise),
		cmocka_unit_test(step_time),
		cmocka_unit_test(ideal_time),
		cmocka_unit_test(backend),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
