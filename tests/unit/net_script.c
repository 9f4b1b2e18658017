/*
 * Reads and runs packet scripts. See net_script.h.
 */
#include "tests/unit/net_script.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base_error.h"

enum { LINE_BYTES = 64 << 10, FRAME_BYTES = 16 << 10, WORDS = 256, STATICS = 32 };

struct bytes {
	unsigned char at[FRAME_BYTES];
	size_t count;
};

struct script {
	const char *path;
	uint32_t line;
	struct net_ip_options options;
	struct net_ip_local locals[NET_IP_LOCALS_MAX];
	struct net_ip_listener listeners[NET_LISTENERS_MAX];
	struct net_ip_static statics[STATICS];
	struct net_ip *ip;
	struct net_script_seen *seen;
	int64_t now_ns;
	struct net_ip_verdict verdict;
	uint32_t offload;
	uint64_t before[NET_IP_COUNTERS]; /* the last frame that came in */
	bool was_delivered;
	struct bytes in, out;
	struct net_ip_datagram datagram;
	struct net_way way;
	struct net_ip_frame frame;
	int send_rc;
};

__attribute__((format(printf, 2, 3))) static bool fail(const struct script *script, const char *format, ...)
{
	va_list arguments;

	printf("# %s:%u: ", script->path, script->line);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	return false;
}

/* ---- words ------------------------------------------------------------------------------------------------ */

struct words {
	char *at[WORDS];
	uint32_t count;
};

static uint32_t number(const char *text)
{
	return (uint32_t)strtoul(text, NULL, 0);
}

/* What follows a keyword, or NULL. */
static const char *after(const struct words *words, const char *keyword)
{
	for (uint32_t i = 1; i + 1 < words->count; i++) {
		if (strcmp(words->at[i], keyword) == 0)
			return words->at[i + 1];
	}
	return NULL;
}

/* All words from the first on are one number. */
static bool read_hex(const struct script *script, const struct words *words, struct bytes *bytes)
{
	bytes->count = 0;
	for (uint32_t i = 1; i < words->count; i++) {
		for (const char *at = words->at[i]; *at; at += 2) {
			unsigned value;

			if (bytes->count == FRAME_BYTES || sscanf(at, "%2x", &value) != 1 || !at[1])
				return fail(script, "not a frame in hex");
			bytes->at[bytes->count++] = (unsigned char)value;
		}
	}
	return true;
}

static bool read_address(const struct script *script, const char *text, struct net_ip_address *address)
{
	unsigned char bytes[16];

	if (inet_pton(AF_INET, text, bytes) == 1)
		*address = net_ip4_address(bytes);
	else if (inet_pton(AF_INET6, text, bytes) == 1)
		*address = net_ip6_address(bytes);
	else
		return fail(script, "not an address: %s", text);
	return true;
}

static bool read_mac(const struct script *script, const char *text, unsigned char *mac)
{
	if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6)
		return fail(script, "not a hardware address: %s", text);
	return true;
}

static bool is_same(const struct script *script, const char *what, const unsigned char *got, size_t got_count, const struct bytes *wanted)
{
	if (got_count == wanted->count && memcmp(got, wanted->at, got_count) == 0)
		return true;
	printf("# %s is ", what);
	for (size_t i = 0; i < got_count; i++)
		printf("%02x", got[i]);
	printf("\n");
	return fail(script, "%s is not as expected", what);
}

/* ---- the stack -------------------------------------------------------------------------------------------- */

static void no_random(void *context, void *to, size_t bytes)
{
	(void)context;
	memset(to, 0x5a, bytes);
}

static bool do_mac(struct script *script, const struct words *words)
{
	return read_mac(script, words->at[1], script->options.mac);
}

static bool do_mtu(struct script *script, const struct words *words)
{
	script->options.mtu = number(words->at[1]);
	return true;
}

static bool do_neighbours(struct script *script, const struct words *words)
{
	script->options.neighbour_count = number(words->at[1]);
	return true;
}

static bool do_local(struct script *script, const struct words *words)
{
	struct net_ip_local *local = &script->locals[script->options.local_count];
	const char *vlan = after(words, "vlan"), *gateway = after(words, "gateway");
	char *slash = strchr(words->at[1], '/');

	if (!slash || script->options.local_count == NET_IP_LOCALS_MAX)
		return fail(script, "no prefix, or too many addresses");
	*slash = '\0';
	script->options.local_count++;
	local->prefix_bits = (uint8_t)number(slash + 1);
	local->vlan = vlan ? (uint16_t)number(vlan) : 0;
	local->has_gateway = gateway;
	return read_address(script, words->at[1], &local->address) && (!gateway || read_address(script, gateway, &local->gateway));
}

static bool do_listen(struct script *script, const struct words *words)
{
	struct net_ip_listener *listener = &script->listeners[script->options.listener_count];
	const char *local = after(words, "local");

	if (script->options.listener_count == NET_LISTENERS_MAX)
		return fail(script, "too many listeners");
	script->options.listener_count++;
	*listener = (struct net_ip_listener){ (uint16_t)number(words->at[1]), local ? (uint8_t)number(local) : NET_IP_ANY };
	return true;
}

static bool do_static(struct script *script, const struct words *words)
{
	struct net_ip_static *fixed = &script->statics[script->options.static_count];
	const char *vlan = after(words, "vlan");

	if (script->options.static_count == STATICS)
		return fail(script, "too many static neighbours");
	script->options.static_count++;
	fixed->vlan = vlan ? (uint16_t)number(vlan) : 0;
	return read_address(script, words->at[1], &fixed->address) && read_mac(script, words->at[2], fixed->mac);
}

static bool do_rate(struct script *script, const struct words *words)
{
	const struct { const char *name; struct net_ip_rate *rate; } rates[] = {
		{ "answers", &script->options.answers }, { "questions", &script->options.questions }, { "echoes", &script->options.echoes },
		{ "unreachable", &script->options.unreachable }, { "news", &script->options.news } };

	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		if (strcmp(rates[i].name, words->at[1]) == 0) {
			*rates[i].rate = (struct net_ip_rate){ number(words->at[2]), number(words->at[3]) };
			return true;
		}
	}
	return fail(script, "no such rate");
}

static bool do_start(struct script *script, const struct words *words)
{
	(void)words;
	script->options.locals = script->locals;
	script->options.listeners = script->listeners;
	script->options.statics = script->statics;
	if (net_ip_create(&script->ip, &script->options) != 0)
		return fail(script, "%s", base_error_message());
	return true;
}

/* ---- in --------------------------------------------------------------------------------------------------- */

static uint64_t value_at(const struct script *script, uint32_t i)
{
	const char *counters = (const char *)net_ip_counters(script->ip);

	return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(counters + net_ip_counter_names[i].offset),
		memory_order_relaxed);
}

static bool do_receive(struct script *script, const struct words *words)
{
	unsigned char *exact;

	if (!read_hex(script, words, &script->in))
		return false;
	for (uint32_t i = 0; i < NET_IP_COUNTERS; i++)
		script->before[i] = value_at(script, i);
	/* Of just that size, so that a sanitizer sees one byte too many. */
	exact = malloc(script->in.count + (script->in.count == 0));
	memcpy(exact, script->in.at, script->in.count);
	script->was_delivered = net_ip_receive(script->ip, exact, script->in.count, script->verdict, script->now_ns, &script->datagram);
	free(exact);
	if (script->was_delivered)
		script->way = script->datagram.way;
	return true;
}

static bool is_outcome(uint32_t i)
{
	return strncmp(net_ip_counter_names[i].name, "in.", 3) == 0;
}

static bool do_is(struct script *script, const struct words *words)
{
	bool has_name = false, is_right = true;

	for (uint32_t i = 0; i < NET_IP_COUNTERS; i++) {
		const bool is_wanted = is_outcome(i) && strcmp(net_ip_counter_names[i].name + 3, words->at[1]) == 0;
		const uint64_t more = value_at(script, i) - script->before[i];

		if (is_wanted)
			script->seen->outcomes[i] = has_name = true;
		if (is_outcome(i) && more != (is_wanted ? 1 : 0))
			is_right = fail(script, "%s counted %d", net_ip_counter_names[i].name, (int)more);
	}
	return has_name ? is_right : fail(script, "no such counter");
}

static bool do_payload(struct script *script, const struct words *words)
{
	static struct bytes wanted;
	const struct net_ip_datagram *datagram = &script->datagram;

	if (!script->was_delivered)
		return fail(script, "nothing was delivered");
	return read_hex(script, words, &wanted) &&
		is_same(script, "payload", script->in.at + datagram->offset, datagram->bytes, &wanted);
}

static bool do_listener(struct script *script, const struct words *words)
{
	return script->datagram.way.listener == number(words->at[1]) || fail(script, "listener %u", script->datagram.way.listener);
}

static bool do_verdict(struct script *script, const struct words *words)
{
	static const char *const names[] = { "unknown", "good", "bad" };

	for (uint8_t i = 0; i < 3; i++) {
		if (strcmp(words->at[1], names[i]) == 0)
			script->verdict.ip4 = i;
		if (strcmp(words->at[2], names[i]) == 0)
			script->verdict.udp = i;
	}
	return true;
}

/* ---- out -------------------------------------------------------------------------------------------------- */

static bool do_own(struct script *script, const struct words *words)
{
	static struct bytes wanted;
	unsigned char frame[NET_IP_OWN_BYTES];

	return read_hex(script, words, &wanted) && is_same(script, "own frame", frame, net_ip_next(script->ip, frame), &wanted);
}

static bool do_nothing(struct script *script, const struct words *words)
{
	unsigned char frame[NET_IP_OWN_BYTES];

	(void)words;
	return net_ip_next(script->ip, frame) == 0 || fail(script, "there is a frame");
}

static bool do_way(struct script *script, const struct words *words)
{
	struct net_ip_address peer;

	if (!read_address(script, words->at[3], &peer))
		return false;
	return net_ip_way(script->ip, number(words->at[1]), number(words->at[2]), &peer, (uint16_t)number(words->at[4]), &script->way) == 0 ||
		fail(script, "no such way");
}

static bool do_send(struct script *script, const struct words *words)
{
	static struct bytes payload;

	if (!read_hex(script, words, &payload) || payload.count > FRAME_BYTES - NET_IP_HEADROOM_BYTES)
		return fail(script, "no payload, or too long");
	memset(script->out.at, 0xee, NET_IP_HEADROOM_BYTES);
	memcpy(script->out.at + NET_IP_HEADROOM_BYTES, payload.at, payload.count);
	script->send_rc = net_ip_send(script->ip, &script->way, script->out.at + NET_IP_HEADROOM_BYTES, payload.count, script->offload,
		script->now_ns, &script->frame);
	return true;
}

static bool do_offload(struct script *script, const struct words *words)
{
	script->offload = number(words->at[1]);
	return true;
}

static bool do_sent(struct script *script, const struct words *words)
{
	static struct bytes wanted;

	if (script->send_rc != 0)
		return fail(script, "send said %d", script->send_rc);
	return read_hex(script, words, &wanted) && is_same(script, "sent frame", script->frame.at, script->frame.bytes, &wanted);
}

static bool do_unsent(struct script *script, const struct words *words)
{
	static const struct { const char *name; int rc; } names[] = { { "EHOSTUNREACH", -EHOSTUNREACH }, { "EMSGSIZE", -EMSGSIZE },
		{ "EINVAL", -EINVAL } };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(names[i].name, words->at[1]) == 0)
			return script->send_rc == names[i].rc || fail(script, "send said %d", script->send_rc);
	}
	return fail(script, "no such error");
}

/* ---- and ------------------------------------------------------------------------------------------------- */

static bool do_advance(struct script *script, const struct words *words)
{
	const int64_t unit_ns = strcmp(words->at[2], "s") == 0 ? 1000000000 : strcmp(words->at[2], "ms") == 0 ? 1000000 : 1;

	script->now_ns += strtoll(words->at[1], NULL, 0) * unit_ns;
	return true;
}

static bool near_value(const struct script *script, const char *name, uint64_t *value)
{
	const struct net_neighbour_counters *near = net_ip_neighbour_counters(script->ip);
	const struct { const char *name; const _Atomic uint64_t *at; } names[] = { { "learned", &near->learned }, { "asked", &near->asked },
		{ "answered", &near->answered }, { "moved", &near->moved }, { "unanswered", &near->unanswered },
		{ "forgotten", &near->forgotten }, { "pushed_out", &near->pushed_out }, { "no_room", &near->no_room },
		{ "static_kept", &near->static_kept } };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(names[i].name, name) == 0) {
			*value = atomic_load_explicit(names[i].at, memory_order_relaxed);
			return true;
		}
	}
	return false;
}

static bool do_counter(struct script *script, const struct words *words)
{
	const char *name = words->at[1];
	bool is_known = strncmp(name, "near.", 5) == 0;
	uint64_t value = 0;

	if (is_known)
		is_known = near_value(script, name + 5, &value);
	for (uint32_t i = 0; i < NET_IP_COUNTERS && !is_known; i++) {
		is_known = strcmp(net_ip_counter_names[i].name, name) == 0;
		value = value_at(script, i);
	}
	if (!is_known)
		return fail(script, "no such counter");
	return value == number(words->at[2]) || fail(script, "%s is %u", name, (unsigned)value);
}

/* ---- lines ------------------------------------------------------------------------------------------------ */

struct command {
	const char *name;
	bool (*run)(struct script *script, const struct words *words);
	uint32_t words; /* at least, with its own */
	bool before_start;
};

static const struct command commands[] = {
	{ "mac", do_mac, 2, true },
	{ "mtu", do_mtu, 2, true },
	{ "neighbours", do_neighbours, 2, true },
	{ "local", do_local, 2, true },
	{ "listen", do_listen, 2, true },
	{ "static", do_static, 3, true },
	{ "rate", do_rate, 4, true },
	{ "start", do_start, 1, true },
	{ "receive", do_receive, 1, false },
	{ "verdict", do_verdict, 3, false },
	{ "is", do_is, 2, false },
	{ "payload", do_payload, 1, false },
	{ "listener", do_listener, 2, false },
	{ "own", do_own, 2, false },
	{ "nothing", do_nothing, 1, false },
	{ "way", do_way, 5, false },
	{ "send", do_send, 1, false },
	{ "offload", do_offload, 2, false },
	{ "sent", do_sent, 2, false },
	{ "unsent", do_unsent, 2, false },
	{ "advance", do_advance, 3, false },
	{ "counter", do_counter, 3, false },
};

/* Cuts a line, which it changes. */
static void cut(char *line, struct words *words)
{
	words->count = 0;
	for (char *word = strtok(line, " \t\n"); word && words->count < WORDS; word = strtok(NULL, " \t\n"))
		words->at[words->count++] = word;
}

static bool run_line(struct script *script, char *line)
{
	struct words words;
	char *comment = strchr(line, '#');

	if (comment)
		*comment = '\0';
	cut(line, &words);
	if (words.count == 0)
		return true;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const struct command *command = &commands[i];

		if (strcmp(command->name, words.at[0]) != 0)
			continue;
		if (words.count < command->words || command->before_start == (script->ip != NULL))
			return fail(script, "%s is lacking words, or out of place", command->name);
		return command->run(script, &words);
	}
	return fail(script, "no such command: %s", words.at[0]);
}

/* Reads a command with the lines that go on with it. false: the file has ended. */
static bool read_line(FILE *file, struct script *script, char *line)
{
	size_t bytes = 0;
	int next;

	if (!fgets(line, LINE_BYTES, file))
		return false;
	script->line++;
	for (next = getc(file); next == ' ' || next == '\t'; next = getc(file)) {
		bytes = strcspn(line, "\n");
		line[bytes] = ' ';
		if (!fgets(line + bytes + 1, (int)(LINE_BYTES - bytes - 1), file))
			break;
		script->line++;
	}
	if (next != EOF)
		ungetc(next, file);
	return true;
}

static bool run_lines(FILE *file, struct script *script)
{
	static char line[LINE_BYTES];

	while (read_line(file, script, line)) {
		if (!run_line(script, line))
			return false;
	}
	return script->ip || fail(script, "never started");
}

bool net_script_run(const char *path, struct net_script_seen *seen)
{
	static struct script script;
	FILE *file = fopen(path, "r");
	bool is_right;

	script = (struct script){ .path = path, .seen = seen, .now_ns = 1000000000 };
	net_ip_defaults(&script.options);
	memcpy(script.options.mac, (const unsigned char[]){ 2, 0, 0, 0, 0, 1 }, NET_MAC_BYTES);
	script.options.random = no_random;
	if (!file)
		return fail(&script, "cannot be read");
	is_right = run_lines(file, &script);
	fclose(file);
	net_ip_destroy(script.ip);
	return is_right;
}
