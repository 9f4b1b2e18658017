/*
 * The test vectors of docs/PROTOCOL.md, which another implementation made: this one reads and writes the same bytes. They are taken from
 * the document itself, from the block that begins with "key  0001..": a name, and hexadecimal digits over one or more lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "netio/net_hello.h"
#include "netio/net_packet.h"

enum { VECTORS_MAX = 64, BYTES_MAX = 512, NAME_MAX = 32, NAME_COLUMNS = 21 };

static struct vector { char name[NAME_MAX]; unsigned char bytes[BYTES_MAX]; size_t count; } vectors[VECTORS_MAX];
static size_t vector_count;

/* ---- the document ----------------------------------------------------------------------------------------- */

static void add_digits(struct vector *vector, const char *digits)
{
	unsigned value;

	for (; sscanf(digits, "%2x", &value) == 1; digits += 2) {
		assert_in_range(vector->count, 0, BYTES_MAX - 1);
		vector->bytes[vector->count++] = (unsigned char)value;
	}
}

static void add_line(char *line)
{
	line[strcspn(line, "\n")] = 0;
	assert_true(strlen(line) > NAME_COLUMNS);
	line[NAME_COLUMNS - 1] = 0;
	if (line[0] != ' ') {
		struct vector *vector = &vectors[vector_count++];
		size_t end = strlen(line);

		assert_in_range(vector_count, 1, VECTORS_MAX);
		while (line[end - 1] == ' ')
			end--;
		snprintf(vector->name, sizeof(vector->name), "%.*s", (int)end, line);
	}
	assert_true(vector_count > 0);
	add_digits(&vectors[vector_count - 1], line + NAME_COLUMNS);
}

static int read_document(void **state)
{
	FILE *file = fopen("docs/PROTOCOL.md", "r");
	bool within = false;
	char line[1024];

	(void)state;
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file)) {
		within = within ? strncmp(line, "```", 3) != 0 : strncmp(line, "key     ", 8) == 0;
		if (within)
			add_line(line);
	}
	fclose(file);
	return net_secure_init();
}

/* One of them; of those that differ by cipher, the cipher's. */
static const struct vector *of(enum net_cipher cipher, const char *name)
{
	char wanted[NAME_MAX];

	snprintf(wanted, sizeof(wanted), cipher == NET_CIPHER_PLAIN ? "%.0d%s" : "%d %s", (int)cipher, name);
	for (size_t i = 0; i < vector_count; i++)
		if (strcmp(vectors[i].name, wanted) == 0)
			return &vectors[i];
	fail_msg("the document has no \"%s\"", wanted);
	return NULL;
}

static void check(const struct vector *vector, const unsigned char *bytes, size_t count)
{
	assert_int_equal(count, vector->count);
	assert_memory_equal(bytes, vector->bytes, count);
}

/* ---- against it ------------------------------------------------------------------------------------------- */

static const struct vector *common(const char *name)
{
	return of(NET_CIPHER_PLAIN, name);
}

static void says_what_the_parts_hold(void **state)
{
	struct net_hello hello;
	struct net_welcome welcome;
	unsigned char bytes[NET_WELCOME_BYTES];

	(void)state;
	assert_int_equal(net_hello_read(common("HELLO's part")->bytes, &hello), 0);
	assert_int_equal(hello.clock_ns, 1000000000);
	net_hello_write(bytes, &hello);
	check(common("HELLO's part"), bytes, NET_HELLO_BYTES);
	assert_int_equal(net_welcome_read(common("WELCOME's part")->bytes, &welcome), 0);
	assert_int_equal(welcome.boot_id, 0x1122334455667788);
	assert_int_equal(welcome.resume_ms, 10000);
	assert_int_equal(welcome.name, 0x0123456700000001);
	net_welcome_write(bytes, &welcome);
	check(common("WELCOME's part"), bytes, NET_WELCOME_BYTES);
}

/* The chunks, written anew. */
static size_t put_chunks(unsigned char *packet, const struct net_packets *packets, bool daemon, struct net_writer *body)
{
	const struct attnd_request request = { .op = ATTND_OP_NOP, .version = 1, .request_id = 0x77, .in_bytes = 5, .out_capacity = 5 };
	const struct attnd_completion completion = { .request_id = 0x77,
		.flags = ATTND_CPL_FINAL,
		.result_bytes = 5,
		.received_ns = 2000600000,
		.done_ns = 2000610000 };
	const struct net_times times = { 1000500000, 2000600000, 2000620000 };
	const struct net_come come = { .number = 1 };
	const unsigned char *begin;
	uint32_t taken;

	net_packet_begin(packets, packet, NET_PACKET_BYTES_MAX, body);
	begin = body->at;
	assert_true(net_times_put(body, daemon ? NET_PONG : NET_PING, &times));
	if (daemon)
		assert_true(net_come_put(body, NET_TAKEN, 0, &come));
	assert_true(net_part_put(body, daemon ? NET_REPLY : NET_REQUEST, 1, daemon ? (const void *)&completion : &request, "hello", 5, 0,
		&taken));
	return (size_t)(body->at - begin);
}

static void says_what_the_chunks_are(void **state)
{
	static unsigned char packet[NET_PACKET_BYTES_MAX];
	const struct net_packets plain = { .plain = true };
	struct net_writer body;

	(void)state;
	for (int daemon = 0; daemon < 2; daemon++) {
		const size_t bytes = put_chunks(packet, &plain, daemon, &body);

		check(common(daemon ? "daemon's chunks" : "client's chunks"), body.at - bytes, bytes);
	}
}

static void shake_hands(enum net_cipher cipher, struct net_packets *client, struct net_packets *daemon)
{
	struct net_clear clear = { .cipher = (uint8_t)cipher };
	unsigned char packet[NET_STREAM_HEAD_BYTES + NET_CLEAR_BYTES + NET_NOISE_BYTES + NET_WELCOME_BYTES], part[NET_WELCOME_BYTES];
	unsigned char *body = packet + NET_STREAM_HEAD_BYTES;
	struct net_noise ours, theirs;
	size_t bytes;

	net_key_name(common("key")->bytes, clear.key);
	check(common("its name"), clear.key, sizeof(clear.key));
	net_clear_write(body, &clear);
	net_noise_begin(&ours, cipher, true, body, NET_CLEAR_BYTES, common("key")->bytes, common("client's secret")->bytes);
	net_noise_begin(&theirs, cipher, false, body, NET_CLEAR_BYTES, common("key")->bytes, common("daemon's secret")->bytes);
	bytes = NET_CLEAR_BYTES + net_noise_write(&ours, common("HELLO's part")->bytes, NET_HELLO_BYTES, body + NET_CLEAR_BYTES);
	check(of(cipher, "key of HELLO"), ours.key, sizeof(ours.key));
	check(of(cipher, "HELLO"), packet, net_packet_clear(packet, false, NET_HELLO, 0, bytes));
	assert_int_equal(net_noise_read(&theirs, body + NET_CLEAR_BYTES, bytes - NET_CLEAR_BYTES, part), NET_HELLO_BYTES);
	bytes = net_noise_write(&theirs, common("WELCOME's part")->bytes, NET_WELCOME_BYTES, body);
	check(of(cipher, "key of WELCOME"), theirs.key, sizeof(theirs.key));
	check(of(cipher, "WELCOME"), packet, net_packet_clear(packet, false, NET_WELCOME, 0, bytes));
	assert_int_equal(net_noise_read(&ours, body, bytes, part), NET_WELCOME_BYTES);
	check(of(cipher, "hash"), ours.hash, sizeof(ours.hash));
	net_noise_split(&ours, &client->send, &client->receive);
	net_noise_split(&theirs, &daemon->send, &daemon->receive);
	check(of(cipher, "client's key"), client->send.key, NET_KEY_BYTES);
	check(of(cipher, "daemon's key"), daemon->send.key, NET_KEY_BYTES);
}

static void seals_the_same_packets(void **state)
{
	static unsigned char packet[NET_PACKET_BYTES_MAX];

	(void)state;
	for (enum net_cipher cipher = NET_CIPHER_AESGCM; cipher <= NET_CIPHER_CHACHA; cipher++) {
		struct net_packets client = { .plain = false }, daemon = { .plain = false };
		struct net_writer body;

		if (!net_cipher_here(cipher))
			continue;
		shake_hands(cipher, &client, &daemon);
		put_chunks(packet, &client, false, &body);
		check(of(cipher, "client's DATA 0"), packet, net_packet_end(&client, packet, &body));
		put_chunks(packet, &daemon, true, &body);
		check(of(cipher, "daemon's DATA 0"), packet, net_packet_end(&daemon, packet, &body));

		client.datagram = true;
		client.name = 0x0123456700000001;
		client.sent = UINT64_C(1) << NET_REKEY_SHIFT;
		net_packet_begin(&client, packet, sizeof(packet), &body);
		assert_true(net_close_put(&body, NET_WHY_BYE));
		check(of(cipher, "client's DATAGRAM"), packet, net_packet_end(&client, packet, &body));
		check(of(cipher, "client's next key"), client.send.key, NET_KEY_BYTES);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_what_the_parts_hold),
		cmocka_unit_test(says_what_the_chunks_are),
		cmocka_unit_test(seals_the_same_packets),
	};

	return cmocka_run_group_tests(tests, read_document, NULL);
}
