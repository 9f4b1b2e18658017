/*
 * attnbench siege: what good connections notice of bad ones. An open loop over N connections, in rounds of two halves: quiet, and under one
 * attack by another process at a bounded rate. How long good requests took in either, and what the daemon counted of the attack.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/base_error.h"
#include "tools/attnbench_crowd.h"
#include "tools/attnbench_frame.h"
#include "tools/attnbench_report.h"
#include "tools/attnbench_siege_raid.h"
#include "tools/tool_args.h"
#include "tools/tool_control.h"
#include "tools/tool_text.h"

enum {
	CONNECTIONS = 50, RATE = 2000, ATTACK_RATE = 1000, /* unless asked otherwise */
	HALF_OPEN = 256,        /* places, which are the daemon's usual ones, and as many for connections of attackers */
	DESCRIPTORS_BESIDE = 64,
	OPTIONS = 4,
	QUANTILES = 3,
	SETTLE_MS = 50,         /* between two halves: what the attack has left is done with, or waits in half-open places */
	AFTER_MS = 2200,        /* between two attacks: these are empty again */
};

static const double quantiles[QUANTILES] = { 0.5, 0.99, 0.999 };
static const char *const quantile_names[QUANTILES] = { "p50", "p99", "p999" };

/* What the daemon counts that tells of an attack, in "network" of its status. The last one is of now, and has to be looked at before the
 * attacker goes. */
static const char *const counted_names[] = { "welcomed", "refused_key", "refused_protocol", "refused_full", "refused_unknown", "cookies",
	"hellos_again", "hellos_waited", "unanswered", "timed_out", "pushed_out", "abandoned", "truncated", "malformed", "oversized",
	"bad_packets", "replays", "broken", "slow", "expired", "no_memory_for_packets", "no_memory", "probes", "port.refused",
	"port.no_room", "port.send_dropped", "port.received_cut", "kept" };

enum { COUNTED = sizeof(counted_names) / sizeof(counted_names[0]), KEPT = COUNTED - 1 };

/* What one attack came to. */
struct assault {
	bool is_asked, noisy;
	struct attnbench_result quiet, attacked;
	double ratios[QUANTILES]; /* medians over rounds: attacked over quiet */
	uint64_t sent, failed;
	double counted[COUNTED];
};

struct siege {
	struct attnbench_options options;
	uint32_t connections;
	double attack_rate;
	unsigned attack; /* enum siege_attack; SIEGE_ATTACKS: all */
	struct attnbench_crowd_clients clients;
	struct attnbench_crowd *crowd;
	struct attnbench_frame *frame;
	struct siege_raid *raid;
	enum siege_attack now; /* the attack that is measured */
	double by_round[QUANTILES][ATTNBENCH_ROUNDS_MAX];
	struct assault assaults[SIEGE_ATTACKS];
	char daemon_options[OPTIONS][64];
};

/* ---- command line -------------------------------------------------------------------------------------------- */

enum { KEY_CONNECTIONS = 0x300, KEY_ATTACK, KEY_ATTACK_RATE };

static const struct argp_option option_table[] = {
	{ "connections", KEY_CONNECTIONS, "N", 0, "good ones, over which --rate good requests a second are spread (50; 2000)", 1 },
	{ "attack", KEY_ATTACK, "ATTACK", 0, "hello-flood, wrong-key, garbage, slow-reader, replay, or all, one after the other (all)", 1 },
	{ "attack-rate", KEY_ATTACK_RATE, "R", 0, "hostile packets a second, at most (1000)", 1 },
	{ 0 },
};

static void check(const struct siege *siege, const struct argp_state *state)
{
	const struct tool_daemon *daemon = &siege->options.daemon;
	const enum tool_transport_kind transport = tool_daemon_transport(daemon);

	if (!daemon->spawn)
		argp_error(state, "siege attacks a daemon of its own: --spawn");
	if (transport != TOOL_TRANSPORT_TCP && transport != TOOL_TRANSPORT_UDP)
		argp_error(state, "siege is for --transport tcp or udp");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct siege *siege = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &siege->options;
		return 0;
	case KEY_CONNECTIONS:
		siege->connections = (uint32_t)tool_args_u64("--connections", value, 1, ATTNBENCH_CROWD_MAX);
		return 0;
	case KEY_ATTACK:
		siege->attack = tool_args_choice("--attack", value, siege_attack_names);
		return 0;
	case KEY_ATTACK_RATE:
		siege->attack_rate = tool_args_double("--attack-rate", value, 1, 1e6);
		return 0;
	case ARGP_KEY_FINI:
		check(siege, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &attnbench_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = { .options = option_table,
	.parser = parse,
	.children = children,
	.doc = "What good connections notice of bad ones: requests that compute nothing go over N sealed connections at intended times, in "
	       "rounds of two halves, quiet and under an attack.\v"
	       "The attacker is a process of its own, niced, which sends in bursts and sleeps between them. It has no processor of its own: "
	       "daemon, clients and attacker share this machine's cores, and what is measured holds that, too. The daemon and the clients' "
	       "loop spin; with fewer than three cores the attacker takes its time from them. --seconds and --rounds are of each attack." };

/* ---- what the daemon counted --------------------------------------------------------------------------------- */

static cJSON *ask_network(const struct siege *siege)
{
	char path[TOOL_SPAWN_PATH_BYTES + 16], *text;
	cJSON *status, *network;

	tool_daemon_control_path(&siege->options.daemon, path, sizeof(path));
	if (tool_control_ask(path, "status", &text))
		tool_die(TOOL_NO_DAEMON, "%s", base_error_message());
	status = cJSON_Parse(text);
	network = cJSON_DetachItemFromObject(status, "network");
	cJSON_Delete(status);
	free(text);
	return network;
}

static void add_counted(struct assault *assault, const cJSON *before, const cJSON *during, const cJSON *after)
{
	for (size_t i = 0; i < COUNTED; i++) {
		const cJSON *then = i == KEPT ? during : after;

		assault->counted[i] += tool_json_number(then, counted_names[i]) - tool_json_number(before, counted_names[i]);
	}
}

/* ---- measuring ----------------------------------------------------------------------------------------------- */

static void settle(int ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&time, NULL);
}

static int half(struct siege *siege, int64_t span_ns, struct attnbench_result *result)
{
	const struct attnbench_options *options = &siege->options;
	struct attnbench_pace pace;

	attnbench_pace_start(&pace, options->rate, options->poisson, options->seed + siege->frame->rounds, 0);
	return attnbench_crowd_open(siege->crowd, &pace, NULL, span_ns, result);
}

static int attacked_half(struct siege *siege, int64_t span_ns, struct attnbench_result *result)
{
	struct assault *assault = &siege->assaults[siege->now];
	const uint64_t sent = siege_raid_sent(siege->raid), failed = siege_raid_failed(siege->raid);
	cJSON *before = ask_network(siege), *during, *after;
	int err = siege_raid_begin(siege->raid, siege->now), end_err;

	if (!err)
		err = half(siege, span_ns, result);
	during = ask_network(siege);
	end_err = siege_raid_end(siege->raid);
	settle(SETTLE_MS);
	after = ask_network(siege);
	add_counted(assault, before, during, after);
	assault->sent += siege_raid_sent(siege->raid) - sent;
	assault->failed += siege_raid_failed(siege->raid) - failed;
	cJSON_Delete(before);
	cJSON_Delete(during);
	cJSON_Delete(after);
	return err ? err : end_err;
}

/* The frame's two loops are the two halves. */
static int round_of(void *context, struct attnbench_frame *frame, int64_t span_ns, struct attnbench_result *results)
{
	struct siege *siege = context;
	const struct base_hist *quiet = &results[ATTNBENCH_CLOSED].latency, *attacked = &results[ATTNBENCH_OPEN].latency;
	int err = half(siege, span_ns / 2, &results[ATTNBENCH_CLOSED]);

	if (!err)
		err = attacked_half(siege, span_ns / 2, &results[ATTNBENCH_OPEN]);
	for (int i = 0; i < QUANTILES && !err && quiet->count > 0; i++)
		siege->by_round[i][frame->rounds] =
			(double)base_hist_quantile(attacked, quantiles[i]) / (double)base_hist_quantile(quiet, quantiles[i]);
	return err;
}

static int measure_attack(struct siege *siege, enum siege_attack attack)
{
	struct assault *assault = &siege->assaults[attack];
	int status;

	siege->now = attack;
	memset(siege->by_round, 0, sizeof(siege->by_round));
	status = attnbench_frame_measure(siege->frame, round_of, siege);
	assault->is_asked = true;
	assault->noisy = siege->frame->noisy;
	assault->quiet = siege->frame->all[ATTNBENCH_CLOSED];
	assault->attacked = siege->frame->all[ATTNBENCH_OPEN];
	for (int i = 0; i < QUANTILES; i++)
		assault->ratios[i] = attnbench_frame_median(siege->frame, siege->by_round[i]);
	return status;
}

static int measure(struct siege *siege)
{
	int status = TOOL_OK;
	bool noisy = false, is_first = true;

	for (enum siege_attack attack = 0; attack < SIEGE_ATTACKS && status == TOOL_OK; attack++) {
		if (siege->attack != SIEGE_ATTACKS && siege->attack != attack)
			continue;
		settle(is_first ? 0 : AFTER_MS);
		is_first = false;
		status = measure_attack(siege, attack);
		noisy |= siege->frame->noisy;
	}
	siege->frame->noisy = noisy;
	return status;
}

/* ---- reports ------------------------------------------------------------------------------------------------- */

static void add_half(cJSON *object, const char *name, const struct attnbench_result *result)
{
	cJSON *one = cJSON_AddObjectToObject(object, name);

	attnbench_json_hist(one, "latency", &result->latency);
	attnbench_json_load(one, result);
}

static void add_assault(cJSON *array, const struct assault *assault, const char *name)
{
	cJSON *object = cJSON_CreateObject(), *counted = cJSON_CreateObject();
	char ratio[32];

	cJSON_AddItemToArray(array, object);
	cJSON_AddStringToObject(object, "attack", name);
	cJSON_AddBoolToObject(object, "noisy", assault->noisy);
	add_half(object, "quiet", &assault->quiet);
	add_half(object, "attacked", &assault->attacked);
	for (int i = 0; i < QUANTILES; i++) {
		snprintf(ratio, sizeof(ratio), "ratio_%s", quantile_names[i]);
		tool_json_add(object, ratio, assault->ratios[i], 3);
	}
	tool_json_add(object, "attack_sent", (double)assault->sent, 0);
	tool_json_add(object, "attack_failed", (double)assault->failed, 0);
	for (size_t i = 0; i < COUNTED; i++)
		if (assault->counted[i] > 0)
			tool_json_add(counted, counted_names[i], assault->counted[i], 0);
	cJSON_AddItemToObject(object, "counted", counted);
}

static void print_json(const struct siege *siege)
{
	cJSON *object = attnbench_json_new(siege->frame, "siege"), *array;

	tool_json_add(object, "connections", siege->connections, 0);
	tool_json_add(object, "rate", siege->options.rate, 3);
	cJSON_AddBoolToObject(object, "poisson", siege->options.poisson);
	tool_json_add(object, "attack_rate", siege->attack_rate, 3);
	array = cJSON_AddArrayToObject(object, "attacks");
	for (enum siege_attack attack = 0; attack < SIEGE_ATTACKS; attack++)
		if (siege->assaults[attack].is_asked)
			add_assault(array, &siege->assaults[attack], siege_attack_names[attack]);
	attnbench_json_print(object);
}

static void counted_text(char *text, size_t bytes, const struct assault *assault)
{
	size_t at = 0;

	text[0] = '\0';
	for (size_t i = 0; i < COUNTED && at < bytes; i++)
		if (assault->counted[i] > 0)
			at += (size_t)snprintf(text + at, bytes - at, "%s%s %.0f", at ? ", " : "", counted_names[i], assault->counted[i]);
}

static void print_row(struct tool_table *table, const struct assault *assault, const char *name)
{
	char text[TOOL_NUMBER_BYTES];

	tool_table_row(table);
	tool_table_cell(table, "%s", name);
	for (int i = 0; i < QUANTILES; i++) {
		tool_table_cell(table, "%s", tool_duration(text, base_hist_quantile(&assault->quiet.latency, quantiles[i])));
		tool_table_cell(table, "%s", tool_duration(text, base_hist_quantile(&assault->attacked.latency, quantiles[i])));
		tool_table_cell(table, "%.2f", assault->ratios[i]);
	}
}

static void print_assault(const struct assault *assault, const char *name)
{
	char counted[512], sent[TOOL_NUMBER_BYTES];

	counted_text(counted, sizeof(counted), assault);
	printf("  %s: %s packets sent", name, tool_count(sent, assault->sent));
	if (assault->failed)
		printf(", %llu could not be", (unsigned long long)assault->failed);
	printf("; counted as %s\n", counted[0] ? counted : "nothing");
	attnbench_report_trouble(&assault->quiet);
	attnbench_report_trouble(&assault->attacked);
}

static void print_tables(const struct siege *siege)
{
	struct tool_table *table =
		tool_table_new("attack|>p50 quiet|>attacked|>ratio|>p99 quiet|>attacked|>ratio|>p99.9 quiet|>attacked|>ratio");

	tool_table_title(stdout, "%u connections over %s; %.0f/s%s from the intended time; under %.0f hostile packets a second",
		siege->connections, attnbench_report_way(&siege->options.daemon), siege->options.rate,
		siege->options.poisson ? " at random" : "", siege->attack_rate);
	for (enum siege_attack attack = 0; attack < SIEGE_ATTACKS; attack++)
		if (siege->assaults[attack].is_asked)
			print_row(table, &siege->assaults[attack], siege_attack_names[attack]);
	tool_table_print(table, stdout);
	for (enum siege_attack attack = 0; attack < SIEGE_ATTACKS; attack++)
		if (siege->assaults[attack].is_asked)
			print_assault(&siege->assaults[attack], siege_attack_names[attack]);
	puts("  daemon, clients and attacker share the cores; ratios are medians of rounds");
	attnbench_report_frame(siege->frame);
}

static int report(const struct siege *siege)
{
	if (siege->options.json)
		print_json(siege);
	else
		print_tables(siege);
	for (enum siege_attack attack = 0; attack < SIEGE_ATTACKS; attack++) {
		const struct assault *assault = &siege->assaults[attack];

		if (assault->is_asked && (assault->quiet.answered == 0 || assault->attacked.answered == 0)) {
			tool_say("no request was answered with a result");
			return TOOL_FAILED;
		}
	}
	return TOOL_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------------- */

/* The daemon and the attacker inherit the limit. */
static void raise_descriptors(const struct siege *siege)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max >= siege->connections + 2 * HALF_OPEN + DESCRIPTORS_BESIDE)
		return;
	tool_die(TOOL_FAILED, "%u connections and an attacker's need more descriptors than the %llu that this process may have: raise its hard "
		"limit (ulimit -Hn)", siege->connections, (unsigned long long)limit.rlim_max);
}

static void prepare_daemon(struct siege *siege)
{
	struct tool_daemon *daemon = &siege->options.daemon;

	snprintf(siege->daemon_options[0], sizeof(siege->daemon_options[0]), "net.connections=%u", siege->connections + 2 * HALF_OPEN);
	snprintf(siege->daemon_options[1], sizeof(siege->daemon_options[1]), "net.half_open=%d", HALF_OPEN);
	snprintf(siege->daemon_options[2], sizeof(siege->daemon_options[2]), "placement.workers=0");
	snprintf(siege->daemon_options[3], sizeof(siege->daemon_options[3]), "kv.pool=16m");
	for (int i = 0; i < OPTIONS; i++)
		tool_daemon_default(daemon, siege->daemon_options[i]);
}

static void arm(struct siege *siege)
{
	const struct tool_transport *transport = &siege->options.daemon.transport;
	const char *port = strrchr(transport->address, ':');
	struct siege_target target;

	if (!port || siege_target_set(&target, "127.0.0.1", (uint16_t)atoi(port + 1), transport->kind == TOOL_TRANSPORT_UDP,
		transport->key_file))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	siege_raid_arm(siege->raid, &target, siege->attack_rate);
	explicit_bzero(&target, sizeof(target));
}

static void open_all(struct siege *siege)
{
	arm(siege);
	siege->clients = (struct attnbench_crowd_clients){ .priority_class = (uint8_t)siege->options.priority_class,
		.deadline_ns = (int64_t)(siege->options.deadline_us * 1e3) };
	attnbench_crowd_clients_open(&siege->clients, &siege->options.daemon, siege->connections, &siege->frame->clock);
	if (attnbench_crowd_create(&siege->crowd, &attnbench_crowd_clients_way, &siege->clients, siege->connections, siege->connections,
		&siege->frame->clock))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	attnbench_crowd_set_ahead(siege->crowd, siege->clients.ahead_ns);
}

int attnbench_siege(int argc, char **argv)
{
	static struct siege siege = { .connections = CONNECTIONS, .attack_rate = ATTACK_RATE, .attack = SIEGE_ATTACKS };
	int status;

	attnbench_defaults(&siege.options);
	siege.options.rate = RATE;
	tool_args_parse(&argp, argc, argv, &siege);
	siege.options.daemon.transport.sealed = true; /* who has no key is a stranger only then */
	raise_descriptors(&siege);
	prepare_daemon(&siege);
	/* Before there is anything that the attacker should not have. */
	if (siege_raid_make(&siege.raid))
		tool_die(TOOL_FAILED, "%s", base_error_message());
	siege.frame = attnbench_frame_open(&siege.options);
	open_all(&siege);
	status = measure(&siege);
	if (status == TOOL_OK)
		status = report(&siege);
	siege_raid_destroy(siege.raid);
	attnbench_crowd_destroy(siege.crowd);
	attnbench_crowd_clients_close(&siege.clients);
	return attnbench_frame_close(siege.frame, status);
}
