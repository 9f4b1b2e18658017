/*
 * Sizes and offsets of everything that another program was compiled with: the records, the
 * parameter blocks, the public structs, and the segments and messages that a client library of
 * another build shares with the daemon. Compared with tests/abi/layout.txt; a difference is a
 * new version of the contract, never an accident.
 *
 *   test_abi_layout --print >tests/abi/layout.txt    when it is no accident
 */
#include <stdio.h>
#include <string.h>

#include "attnd/attnd.h"
#include "attnd/record.h"
#include "attnd/view.h"
#include "base/base_view.h"
#include "shm-ipc/shm_attach.h"
#include "shm-ipc/shm_layout.h"

#define SIZE(type) { #type, sizeof(struct type) }
#define AT(type, field) { #type "." #field, offsetof(struct type, field) }

static const struct { const char *name; size_t value; } layout[] = {
	SIZE(attnd_request),
	AT(attnd_request, op), AT(attnd_request, flags), AT(attnd_request, priority_class),
	AT(attnd_request, version), AT(attnd_request, lap), AT(attnd_request, reserved),
	AT(attnd_request, request_id), AT(attnd_request, session), AT(attnd_request, deadline_ns),
	AT(attnd_request, position), AT(attnd_request, argument), AT(attnd_request, in_offset),
	AT(attnd_request, in_bytes), AT(attnd_request, out_offset), AT(attnd_request, out_capacity),
	AT(attnd_request, args),
	SIZE(attnd_completion),
	AT(attnd_completion, request_id), AT(attnd_completion, status), AT(attnd_completion, flags),
	AT(attnd_completion, lap), AT(attnd_completion, sequence),
	AT(attnd_completion, result_bytes), AT(attnd_completion, position),
	AT(attnd_completion, received_ns), AT(attnd_completion, admitted_ns),
	AT(attnd_completion, started_ns), AT(attnd_completion, done_ns), AT(attnd_completion, value),
	SIZE(attnd_sampling),
	AT(attnd_sampling, seed), AT(attnd_sampling, temperature), AT(attnd_sampling, top_p),
	AT(attnd_sampling, min_p), AT(attnd_sampling, repeat_penalty), AT(attnd_sampling, top_k),
	AT(attnd_sampling, repeat_window),
	SIZE(attnd_open_params),
	AT(attnd_open_params, struct_bytes), AT(attnd_open_params, kind),
	AT(attnd_open_params, model), AT(attnd_open_params, max_tokens), AT(attnd_open_params, kv_k),
	AT(attnd_open_params, kv_v), AT(attnd_open_params, reserved), AT(attnd_open_params, layers),
	AT(attnd_open_params, heads), AT(attnd_open_params, kv_heads),
	AT(attnd_open_params, head_dim), AT(attnd_open_params, window), AT(attnd_open_params, scale),
	AT(attnd_open_params, soft_cap), AT(attnd_open_params, reserved2),
	AT(attnd_open_params, sampling),
	SIZE(attnd_step_args),
	AT(attnd_step_args, output), AT(attnd_step_args, select), AT(attnd_step_args, top_k),
	AT(attnd_step_args, select_count),
	SIZE(attnd_top),
	AT(attnd_top, id), AT(attnd_top, logit), AT(attnd_top, log_probability),
	SIZE(attnd_generate_params),
	AT(attnd_generate_params, struct_bytes), AT(attnd_generate_params, max_tokens),
	AT(attnd_generate_params, stop_count), AT(attnd_generate_params, reserved),
	AT(attnd_generate_params, between_ns), AT(attnd_generate_params, reserved2),
	AT(attnd_generate_params, sampling),
	SIZE(attnd_attend_params),
	AT(attnd_attend_params, struct_bytes), AT(attnd_attend_params, layer),
	AT(attnd_attend_params, dtype), AT(attnd_attend_params, flags),
	AT(attnd_attend_params, q_rows), AT(attnd_attend_params, kv_rows),
	AT(attnd_attend_params, q_position), AT(attnd_attend_params, window),
	AT(attnd_attend_params, scale), AT(attnd_attend_params, soft_cap),
	AT(attnd_attend_params, reserved),
	SIZE(attnd_chat_message),
	AT(attnd_chat_message, role), AT(attnd_chat_message, text_bytes),
	SIZE(attnd_daemon_info),
	AT(attnd_daemon_info, struct_bytes), AT(attnd_daemon_info, version),
	AT(attnd_daemon_info, boot_id), AT(attnd_daemon_info, started_ns),
	AT(attnd_daemon_info, models), AT(attnd_daemon_info, devices),
	AT(attnd_daemon_info, sessions), AT(attnd_daemon_info, sessions_max),
	AT(attnd_daemon_info, kv_bytes), AT(attnd_daemon_info, kv_bytes_free),
	AT(attnd_daemon_info, max_in_flight), AT(attnd_daemon_info, max_tokens),
	AT(attnd_daemon_info, max_step_tokens), AT(attnd_daemon_info, workers),
	AT(attnd_daemon_info, isa), AT(attnd_daemon_info, build), AT(attnd_daemon_info, reserved),
	SIZE(attnd_model_info),
	AT(attnd_model_info, struct_bytes), AT(attnd_model_info, index), AT(attnd_model_info, name),
	AT(attnd_model_info, architecture), AT(attnd_model_info, weights),
	AT(attnd_model_info, parameters), AT(attnd_model_info, weight_bytes),
	AT(attnd_model_info, vocab), AT(attnd_model_info, width), AT(attnd_model_info, layers),
	AT(attnd_model_info, heads), AT(attnd_model_info, kv_heads), AT(attnd_model_info, head_dim),
	AT(attnd_model_info, ff_width), AT(attnd_model_info, context), AT(attnd_model_info, bos),
	AT(attnd_model_info, eos), AT(attnd_model_info, has_tokenizer),
	AT(attnd_model_info, has_chat_template), AT(attnd_model_info, state),
	AT(attnd_model_info, reserved),
	SIZE(attnd_session_info),
	AT(attnd_session_info, struct_bytes), AT(attnd_session_info, kind),
	AT(attnd_session_info, model), AT(attnd_session_info, position),
	AT(attnd_session_info, max_tokens), AT(attnd_session_info, pages),
	AT(attnd_session_info, kv_bytes), AT(attnd_session_info, kv_k), AT(attnd_session_info, kv_v),
	AT(attnd_session_info, reserved), AT(attnd_session_info, reused_tokens), AT(attnd_session_info, reserved2),
	SIZE(attnd_options),
	AT(attnd_options, struct_bytes), AT(attnd_options, address), AT(attnd_options, arena_bytes),
	AT(attnd_options, submission_slots), AT(attnd_options, completion_slots),
	AT(attnd_options, spin_ns), AT(attnd_options, connect_timeout_ns),
	AT(attnd_options, dead_after_ns), AT(attnd_options, key_file),
	SIZE(attnd_message),
	AT(attnd_message, role), AT(attnd_message, text),
	SIZE(shm_client_line),
	AT(shm_client_line, completions_taken), AT(shm_client_line, sleeping),
	AT(shm_client_line, reserved),
	SIZE(shm_daemon_head),
	AT(shm_daemon_head, magic), AT(shm_daemon_head, version), AT(shm_daemon_head, struct_bytes),
	AT(shm_daemon_head, boot_id), AT(shm_daemon_head, client),
	AT(shm_daemon_head, max_in_flight), AT(shm_daemon_head, submission_slots),
	AT(shm_daemon_head, completion_slots), AT(shm_daemon_head, submission_offset),
	AT(shm_daemon_head, arena_offset), AT(shm_daemon_head, arena_bytes),
	AT(shm_daemon_head, line_offset), AT(shm_daemon_head, completion_offset),
	AT(shm_daemon_head, write_bytes), AT(shm_daemon_head, read_bytes),
	AT(shm_daemon_head, counters_offset),
	SIZE(shm_daemon_line),
	AT(shm_daemon_line, submissions_taken), AT(shm_daemon_line, sleeping),
	AT(shm_daemon_line, bell), AT(shm_daemon_line, state),
	SIZE(shm_counters),
	AT(shm_counters, requests), AT(shm_counters, completions),
	AT(shm_counters, stream_completions), AT(shm_counters, rejected), AT(shm_counters, wakes),
	AT(shm_counters, wakes_held), AT(shm_counters, parked), AT(shm_counters, view_offset),
	AT(shm_counters, reserved),
	SIZE(shm_hello),
	AT(shm_hello, magic), AT(shm_hello, version), AT(shm_hello, struct_bytes),
	AT(shm_hello, arena_bytes), AT(shm_hello, submission_slots), AT(shm_hello, completion_slots),
	AT(shm_hello, flags), AT(shm_hello, reserved),
	SIZE(shm_welcome),
	AT(shm_welcome, magic), AT(shm_welcome, version), AT(shm_welcome, struct_bytes),
	AT(shm_welcome, status), AT(shm_welcome, reserved), AT(shm_welcome, reason),
	AT(shm_welcome, head),
	SIZE(attnd_timeline),
	AT(attnd_timeline, number), AT(attnd_timeline, request_id), AT(attnd_timeline, last_step_ns),
	AT(attnd_timeline, steps), AT(attnd_timeline, rows), AT(attnd_timeline, started_ns),
	AT(attnd_timeline, done_ns), AT(attnd_timeline, op), AT(attnd_timeline, priority_class),
	AT(attnd_timeline, status), AT(attnd_timeline, flags), AT(attnd_timeline, device),
	AT(attnd_timeline, reserved), AT(attnd_timeline, tokens), AT(attnd_timeline, reserved2),
	AT(attnd_timeline, session), AT(attnd_timeline, received_ns), AT(attnd_timeline, admitted_ns),
	AT(attnd_timeline, deadline_ns), AT(attnd_timeline, predicted_ns), AT(attnd_timeline, reserved3),
	AT(attnd_timeline, step_ns), AT(attnd_timeline, step_took_ns), AT(attnd_timeline, step_rows),
	SIZE(attnd_view_own),
	AT(attnd_view_own, records), AT(attnd_view_own, requests), AT(attnd_view_own, completions),
	AT(attnd_view_own, stream_completions), AT(attnd_view_own, parked), AT(attnd_view_own, stale),
	AT(attnd_view_own, reserved), AT(attnd_view_own, ended),
	SIZE(attnd_view_now),
	AT(attnd_view_now, number), AT(attnd_view_now, published_ns), AT(attnd_view_now, started_ns),
	AT(attnd_view_now, busy_ns), AT(attnd_view_now, begun_ns), AT(attnd_view_now, predicted_ns),
	AT(attnd_view_now, actual_ns), AT(attnd_view_now, steps), AT(attnd_view_now, step_rows),
	AT(attnd_view_now, decode_rows), AT(attnd_view_now, prefill_rows),
	AT(attnd_view_now, step_sequences), AT(attnd_view_now, attends),
	AT(attnd_view_now, stream_completions), AT(attnd_view_now, parked), AT(attnd_view_now, gone),
	AT(attnd_view_now, waiting), AT(attnd_view_now, running), AT(attnd_view_now, clients),
	AT(attnd_view_now, sessions), AT(attnd_view_now, kv_bytes), AT(attnd_view_now, kv_used),
	AT(attnd_view_now, kv_cached), AT(attnd_view_now, kv_dirty), AT(attnd_view_now, kv_free),
	AT(attnd_view_now, kv_blocks), AT(attnd_view_now, prefix_lookups),
	AT(attnd_view_now, prefix_hits), AT(attnd_view_now, prefix_prompt_tokens),
	AT(attnd_view_now, prefix_tokens), AT(attnd_view_now, prefix_evictions),
	AT(attnd_view_now, prefix_pages), AT(attnd_view_now, fair_drift_ns), AT(attnd_view_now, reserved),
	SIZE(attnd_view_counts),
	AT(attnd_view_counts, received), AT(attnd_view_counts, admitted), AT(attnd_view_counts, ended),
	AT(attnd_view_counts, errors), AT(attnd_view_counts, predictions), AT(attnd_view_counts, band),
	AT(attnd_view_counts, reserved),
	SIZE(attnd_view_device),
	AT(attnd_view_device, now), AT(attnd_view_device, counts),
	SIZE(attnd_view_daemon),
	AT(attnd_view_daemon, boot_id), AT(attnd_view_daemon, started_ns),
	AT(attnd_view_daemon, alive_ns), AT(attnd_view_daemon, pid), AT(attnd_view_daemon, devices),
	AT(attnd_view_daemon, clients), AT(attnd_view_daemon, records),
	AT(attnd_view_daemon, completions), AT(attnd_view_daemon, stream_completions),
	AT(attnd_view_daemon, bad_record), AT(attnd_view_daemon, bad_op),
	AT(attnd_view_daemon, bad_range), AT(attnd_view_daemon, queue_full),
	AT(attnd_view_daemon, dropped), AT(attnd_view_daemon, reserved), AT(attnd_view_daemon, read_ns),
	AT(attnd_view_daemon, stale),
	SIZE(base_view_own_head),
	AT(base_view_own_head, magic), AT(base_view_own_head, version), AT(base_view_own_head, devices),
	AT(base_view_own_head, slots), AT(base_view_own_head, reserved),
	AT(base_view_own_head, device_bytes), AT(base_view_own_head, reserved2),
	SIZE(base_view_own_device),
	AT(base_view_own_device, own), AT(base_view_own_device, timelines),
	SIZE(base_view_head),
	AT(base_view_head, magic), AT(base_view_head, version), AT(base_view_head, devices),
	AT(base_view_head, bytes), AT(base_view_head, device_bytes), AT(base_view_head, reserved),
	AT(base_view_head, daemon),
	SIZE(base_view_device),
	AT(base_view_device, now), AT(base_view_device, counts),
};

enum { COUNT = sizeof(layout) / sizeof(layout[0]), LINE_BYTES = 128 };

static void line_of(char line[LINE_BYTES], size_t i)
{
	snprintf(line, LINE_BYTES, "%-50s %zu\n", layout[i].name, layout[i].value);
}

int main(int argc, char **argv)
{
	char ours[LINE_BYTES], theirs[LINE_BYTES];
	unsigned wrong = 0;
	size_t i;
	FILE *file;

	if (argc > 1 && strcmp(argv[1], "--print") == 0) {
		for (i = 0; i < COUNT; i++) {
			line_of(ours, i);
			fputs(ours, stdout);
		}
		return 0;
	}
	file = fopen("tests/abi/layout.txt", "r");
	if (!file) {
		fprintf(stderr, "tests/abi/layout.txt is not there; run this from the project's root\n");
		return 1;
	}
	for (i = 0; fgets(theirs, sizeof(theirs), file); i++) {
		if (i < COUNT)
			line_of(ours, i);
		if (i >= COUNT || strcmp(ours, theirs)) {
			fprintf(stderr, "layout.txt:%zu: %s", i + 1, theirs);
			fprintf(stderr, "      now: %s", i < COUNT ? ours : "(gone)\n");
			wrong++;
		}
	}
	fclose(file);
	if (i < COUNT)
		fprintf(stderr, "layout.txt has %zu lines, there are %d now\n", i, (int)COUNT);
	return wrong || i < COUNT;
}
