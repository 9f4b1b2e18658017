/*
 * Fuzzes what attnsim reads: any bytes are refused with a message or make a trace that keeps its promises: requests in
 * order of arrival, lengths in range, hashes inside. The same bytes are read as residuals too.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/base_error.h"
#include "tools/attnsim_device.h"
#include "tools/attnsim_trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at_trace(const struct attnsim_trace *trace)
{
	int64_t before_ns = 0;

	if (trace->count == 0)
		abort();
	for (size_t i = 0; i < trace->count; i++) {
		const struct attnsim_request *request = &trace->requests[i];

		if (request->arrival_ns < before_ns || request->prompt == 0 || request->prompt > ATTNSIM_TOKENS_MAX ||
			request->output == 0 || request->output > ATTNSIM_TOKENS_MAX ||
			request->hash_first + request->hash_count > trace->hash_count)
			abort();
		before_ns = request->arrival_ns;
	}
	if (!(attnsim_trace_rate(trace) > 0.0) || attnsim_trace_longest(trace) < 2 || attnsim_trace_reuse(trace) < 0.0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct attnsim_trace trace;
	struct attnsim_noise noise;

	base_error_clear();
	if (attnsim_trace_parse(&trace, "input", (const char *)data, size) == 0) {
		look_at_trace(&trace);
		attnsim_trace_free(&trace);
	} else if (base_error_message()[0] == '\0' || trace.requests) {
		abort(); /* refused without a word, or only half */
	}
	base_error_clear();
	if (attnsim_noise_parse(&noise, "input", (const char *)data, size) == 0) {
		if (!(attnsim_noise_at(&noise, 0.0) > 0.0 && attnsim_noise_at(&noise, 0.5) <= attnsim_noise_at(&noise, 1.0)))
			abort();
		attnsim_noise_free(&noise);
	} else if (base_error_message()[0] == '\0') {
		abort();
	}
	return 0;
}
