/*
 * What both sides say first, byte for byte as docs/PROTOCOL.md has it; what is not zero though it has to be; and keys as people write them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "netio/net_hello.h"

static int set_up(void **state)
{
	(void)state;
	assert_int_equal(net_secure_init(), 0);
	return 0;
}

/* Bytes from, from + 1, ... */
static void count_up(unsigned char *to, size_t bytes, unsigned from)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (unsigned char)(from + i);
}

/* ---- HELLO ------------------------------------------------------------------------------------------------ */

static const unsigned char clear_bytes[NET_CLEAR_BYTES] = {
	'a', 't', 't', 'n', 'd', 'n', 'e', 't', 1, 0, 2, 0, 0, 0, 0, 0,
	0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
	0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f,
	0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7b, 0x7c, 0x7d, 0x7e, 0x7f,
};

static void hello_clear(void **state)
{
	struct net_clear clear = { .cipher = NET_CIPHER_CHACHA }, read = { .cipher = 9 };
	unsigned char bytes[NET_CLEAR_BYTES];

	(void)state;
	count_up(clear.key, sizeof(clear.key), 0x40);
	count_up(clear.cookie, sizeof(clear.cookie), 0x60);
	memset(bytes, 0xee, sizeof(bytes));
	net_clear_write(bytes, &clear);
	assert_memory_equal(bytes, clear_bytes, sizeof(bytes));
	assert_int_equal(net_clear_read(bytes, &read), 0);
	assert_memory_equal(&read, &clear, sizeof(clear));
}

/* Every byte before the key says something, or is zero. */
static void hello_clear_changed(void **state)
{
	unsigned char bytes[NET_CLEAR_BYTES];
	struct net_clear read;

	(void)state;
	for (size_t at = 0; at < 16; at++) {
		const int wanted = at == 8 || at == 9 ? -EPROTONOSUPPORT : at == 10 ? 0 : -EPROTO;

		memcpy(bytes, clear_bytes, sizeof(bytes));
		bytes[at] ^= 0x80;
		assert_int_equal(net_clear_read(bytes, &read), wanted);
	}
	/* Who comes with a cipher of another time is to hear which there are. */
	assert_int_equal(read.cipher, NET_CIPHER_CHACHA);
	memcpy(bytes, clear_bytes, sizeof(bytes));
	bytes[10] = 200;
	assert_int_equal(net_clear_read(bytes, &read), 0);
	assert_int_equal(read.cipher, 200);
}

static void hello_clear_plain(void **state)
{
	const struct net_clear clear = { .cipher = NET_CIPHER_PLAIN };
	unsigned char bytes[NET_CLEAR_BYTES];
	struct net_clear read;

	(void)state;
	net_clear_write(bytes, &clear);
	assert_int_equal(net_clear_read(bytes, &read), 0);
	/* A key that nobody proves. */
	for (size_t at = 16; at < 32; at++) {
		bytes[at] = 1;
		assert_int_equal(net_clear_read(bytes, &read), -EPROTO);
		bytes[at] = 0;
	}
}

static void hello_sealed(void **state)
{
	static const unsigned char wanted[NET_HELLO_BYTES] = {
		0x01, 0, 0, 0, 0, 0, 0, 0x80, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f,
		0x04, 0x03, 0x02, 0x01, 0xd0, 0x04, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
	};
	struct net_hello hello = { .features = UINT64_C(0x8000000000000001),
		.replies = 0x01020304,
		.datagram_bytes = 1232,
		.clock_ns = INT64_C(0x1122334455667788) };
	struct net_hello read = { .features = 0 };
	unsigned char bytes[NET_HELLO_BYTES];

	(void)state;
	count_up(hello.resume, sizeof(hello.resume), 0x20);
	net_hello_write(bytes, &hello);
	assert_memory_equal(bytes, wanted, sizeof(bytes));
	assert_int_equal(net_hello_read(bytes, &read), 0);
	assert_memory_equal(&read, &hello, sizeof(hello));
}

/* ---- WELCOME ---------------------------------------------------------------------------------------------- */

static const struct net_welcome some_welcome = { .boot_id = UINT64_C(0x0807060504030201),
	.now_ns = -2,
	.clock_ns = INT64_C(0x1122334455667788),
	.max_in_flight = 64,
	.stream_credits = 65,
	.window_bytes = 0x00400000,
	.message_bytes = 0x01000000,
	.requests = 0xfffffffe,
	.resume_ms = 10000,
	.datagram_bytes = 1400,
	.flags = NET_RESUMED,
	.name = UINT64_C(0xf0e0d0c0b0a09080) };

static const unsigned char welcome_bytes[NET_WELCOME_BYTES] = {
	0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, /* features, boot_id */
	0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, /* token */
	0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* clocks */
	64, 0, 0, 0, 65, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0x01, /* requests, streams, window, message */
	0xfe, 0xff, 0xff, 0xff, 0x10, 0x27, 0, 0, 0x78, 0x05, 0, 0, 1, 0, 0, 0, /* requests, resume, datagram, flags */
	0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
};

static void welcome(void **state)
{
	struct net_welcome say = some_welcome, read;
	unsigned char bytes[NET_WELCOME_BYTES];

	(void)state;
	count_up(say.token, sizeof(say.token), 0x30);
	memset(bytes, 0xee, sizeof(bytes));
	net_welcome_write(bytes, &say);
	assert_memory_equal(bytes, welcome_bytes, sizeof(bytes));
	memset(&read, 0, sizeof(read));
	assert_int_equal(net_welcome_read(bytes, &read), 0);
	assert_memory_equal(&read, &say, sizeof(say));
}

static void expect_welcome(uint64_t features, uint32_t in_flight, uint32_t streams, uint32_t flags, int rc)
{
	struct net_welcome say = some_welcome, read;
	unsigned char bytes[NET_WELCOME_BYTES];

	say.features = features;
	say.max_in_flight = in_flight;
	say.stream_credits = streams;
	say.flags = flags;
	net_welcome_write(bytes, &say);
	assert_int_equal(net_welcome_read(bytes, &read), rc);
}

/* What a client would take memory by, or what it does not know. */
static void welcome_limits(void **state)
{
	(void)state;
	expect_welcome(0, 1, 1, 0, 0);
	expect_welcome(0, 1023, 1, 0, 0);
	expect_welcome(0, 512, 512, 0, 0);
	expect_welcome(0, 512, 513, 0, -EPROTO);
	expect_welcome(0, 0, 1, 0, -EPROTO);
	expect_welcome(0, 1, 0, 0, -EPROTO);
	expect_welcome(0, UINT32_MAX, 2, 0, -EPROTO);
	expect_welcome(0, 1, 1025, 0, -EPROTO);
	expect_welcome(NET_FEATURE_HAVE, 64, 64, 0, 0);
	expect_welcome(NET_FEATURE_HAVE | 2, 64, 64, 0, -EPROTO);
	expect_welcome(UINT64_C(1) << 63, 64, 64, 0, -EPROTO);
	expect_welcome(0, 64, 64, 2, -EPROTO);
	expect_welcome(0, 64, 64, UINT32_C(1) << 31, -EPROTO);
}

/* ---- REFUSED ---------------------------------------------------------------------------------------------- */

static void refused(void **state)
{
	static const unsigned char wanted[NET_REFUSED_BYTES] = { 3, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0 };
	const struct net_refused say = { .why = NET_WHY_KEY, .ciphers = 6, .version = 1 };
	unsigned char bytes[NET_REFUSED_BYTES + 1];
	struct net_refused read;

	(void)state;
	memset(bytes, 0xee, sizeof(bytes));
	net_refused_write(bytes, &say);
	assert_memory_equal(bytes, wanted, sizeof(wanted));
	for (size_t cut = 0; cut < NET_REFUSED_BYTES; cut++)
		assert_int_equal(net_refused_read(bytes, cut, &read), -EPROTO);
	/* A later version may have more to say. */
	bytes[12] = 1;
	assert_int_equal(net_refused_read(bytes, sizeof(bytes), &read), 0);
	assert_true(read.why == say.why && read.ciphers == say.ciphers && read.version == say.version);
}

static void reasons(void **state)
{
	(void)state;
	assert_true(NET_WHY_BYE == 0 && NET_WHY_VERSION == 1 && NET_WHY_CIPHER == 2 && NET_WHY_KEY == 3 && NET_WHY_FULL == 4);
	assert_true(NET_WHY_DRAINING == 5 && NET_WHY_PROTOCOL == 6 && NET_WHY_UNKNOWN == 7 && NET_WHY_REPLACED == 8);
	for (uint32_t why = 0; why < NET_WHY_END; why++) {
		assert_non_null(net_why_text(why));
		assert_string_not_equal(net_why_text(why), net_why_text(NET_WHY_END));
	}
	assert_non_null(net_why_text(UINT32_MAX));
}

/* ---- keys ------------------------------------------------------------------------------------------------- */

static const char digits[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

static void expect_key(const char *before, const char *text, const char *after, int rc)
{
	unsigned char key[NET_KEY_BYTES], wanted[NET_KEY_BYTES];
	char whole[256];

	snprintf(whole, sizeof(whole), "%s%s%s", before, text, after);
	assert_int_equal(net_key_parse(whole, key), rc);
	count_up(wanted, sizeof(wanted), 0);
	if (!rc)
		assert_memory_equal(key, wanted, sizeof(key));
}

static void keys(void **state)
{
	(void)state;
	expect_key("", digits, "", 0);
	expect_key("", digits, "\n", 0);
	expect_key(" \t\r\n", digits, " \r\n\n", 0);
	expect_key("", "000102030405060708090A0b0C0d0E0F101112131415161718191A1B1C1D1E1F", "", 0);
	expect_key("", "", "", -EINVAL);
	expect_key("\n", "", "\n", -EINVAL);
	expect_key("", digits + 1, "", -EINVAL);
	expect_key("", digits + 2, "", -EINVAL);
	expect_key("", digits, "0", -EINVAL);
	expect_key("", digits, "00", -EINVAL);
	expect_key("", digits, " 00", -EINVAL);
	expect_key("", digits, "g", -EINVAL);
	expect_key("0x", digits, "", -EINVAL);
	expect_key("x", digits, "", -EINVAL);
	expect_key("", "0001020304050607 08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "", -EINVAL);
	expect_key("\xff", digits, "", -EINVAL);
}

/* By sha256sum of "attnd key" and the key. */
static void names(void **state)
{
	static const unsigned char wanted[NET_NAME_BYTES] = {
		0x85, 0x7d, 0x3b, 0xa1, 0xf9, 0xe4, 0x70, 0x09, 0xfa, 0x28, 0x78, 0xf8, 0x8d, 0x95, 0x78, 0x10,
	};
	unsigned char key[NET_KEY_BYTES], name[NET_NAME_BYTES];

	(void)state;
	count_up(key, sizeof(key), 0);
	net_key_name(key, name);
	assert_memory_equal(name, wanted, sizeof(name));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hello_clear),
		cmocka_unit_test(hello_clear_changed),
		cmocka_unit_test(hello_clear_plain),
		cmocka_unit_test(hello_sealed),
		cmocka_unit_test(welcome),
		cmocka_unit_test(welcome_limits),
		cmocka_unit_test(refused),
		cmocka_unit_test(reasons),
		cmocka_unit_test(keys),
		cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
