/*
 * Handshake, sealing, replays: both sides agree and read each other; whatever is changed, cut, late or from somebody else is refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/base_rand.h"
#include "netio/net_secure.h"

enum { MESSAGE = 32 + 40 + 16 };

static const enum net_cipher ciphers[] = { NET_CIPHER_AESGCM, NET_CIPHER_CHACHA };

static unsigned char psk[NET_KEY_BYTES], secrets[2][NET_KEY_BYTES];
static const char clear[] = "what both know before";

static int set_up(void **state)
{
	uint64_t seed = 9;

	(void)state;
	assert_int_equal(net_secure_init(), 0);
	for (int i = 0; i < NET_KEY_BYTES; i++) {
		psk[i] = (unsigned char)base_rand_next(&seed);
		secrets[0][i] = (unsigned char)base_rand_next(&seed);
		secrets[1][i] = (unsigned char)base_rand_next(&seed);
	}
	return 0;
}

struct pair { struct net_noise client, daemon; };

static void begin(struct pair *pair, enum net_cipher cipher)
{
	net_noise_begin(&pair->client, cipher, true, clear, sizeof(clear), psk, secrets[0]);
	net_noise_begin(&pair->daemon, cipher, false, clear, sizeof(clear), psk, secrets[1]);
}

struct ends { struct net_sealing to_daemon, from_client, to_client, from_daemon; };

static void connect_ends(enum net_cipher cipher, struct ends *ends)
{
	unsigned char hello[MESSAGE], welcome[MESSAGE], read[40];
	struct pair pair;

	begin(&pair, cipher);
	assert_int_equal(net_noise_write(&pair.client, "0123456789012345678901234567890123456789", 40, hello), MESSAGE);
	assert_int_equal(net_noise_read(&pair.daemon, hello, MESSAGE, read), 40);
	assert_memory_equal(read, "0123456789012345678901234567890123456789", 40);
	assert_int_equal(net_noise_write(&pair.daemon, "abcdefghijabcdefghijabcdefghijabcdefghij", 40, welcome), MESSAGE);
	assert_int_equal(net_noise_read(&pair.client, welcome, MESSAGE, read), 40);
	assert_memory_equal(read, "abcdefghijabcdefghijabcdefghijabcdefghij", 40);
	net_noise_split(&pair.client, &ends->to_daemon, &ends->from_daemon);
	net_noise_split(&pair.daemon, &ends->to_client, &ends->from_client);
}

static void both_sides_agree(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		unsigned char body[100 + NET_TAG_BYTES] = "a body";
		struct ends ends;

		if (!net_cipher_here(ciphers[i]))
			continue;
		connect_ends(ciphers[i], &ends);
		for (uint64_t number = 0; number < 5; number++) {
			net_seal(&ends.to_daemon, number, "head", 4, body, 100);
			assert_memory_not_equal(body, "a body", 7);
			assert_int_equal(net_open(&ends.from_client, number, "head", 4, body, sizeof(body)), 100);
			assert_string_equal((char *)body, "a body");
			net_seal(&ends.to_client, number, NULL, 0, body, 100);
			assert_int_equal(net_open(&ends.from_daemon, number, NULL, 0, body, sizeof(body)), 100);
			assert_string_equal((char *)body, "a body");
		}
	}
}

/* Made by a second implementation, in Python with the library "cryptography" 50: secrets of bytes i, 3 i + 1 and 5 i + 2, clear
 * part and payloads as below, then the same body as packet 7 and as packet 2^24 + 1, one key later. */
static const struct { enum net_cipher cipher; const char *hello, *welcome, *packet, *later; } goldens[] = {
	{ NET_CIPHER_AESGCM,
		"c37077fb432d19c51d6a8c6fdf9dbf06f8471cf12edb1cadab76aeac29917a1ed4cbb30b1e0c6daae5740524e50024e3"
		"31b78887f4",
		"b5a8a94cec7ee33acb0fc1501b6180f147542e2cd41ff4cdf20ebcc1521c1b0bd5833137dc34f496390b190d35cb20bf"
		"1ad9fca310302d",
		"8657b9fbe3a729d14e5e2caf0a12744cfa2348c5304797057c5b7b85503e7da5",
		"1b0ac5f0b17efdefd8eaeadef2af067f5c28551fcda1f019f1f409191c77a715" },
	{ NET_CIPHER_CHACHA,
		"c37077fb432d19c51d6a8c6fdf9dbf06f8471cf12edb1cadab76aeac29917a1efbd4511558a2163053f4bb25ffa21304"
		"ea2e928cab",
		"b5a8a94cec7ee33acb0fc1501b6180f147542e2cd41ff4cdf20ebcc1521c1b0b51c33fb58802f87a864896ce411f66bd"
		"eaa3f03192f730",
		"e3f7c54a7d5b45c99f0b0c85bf8f9b237d0faac0bf07c79a1a53056b3a918225",
		"35388916be37744e2a32fc31a8ad466f05899d3e7dfc1d50ec421918556d67e5" },
};

static void check_hex(const char *wanted, const unsigned char *bytes, size_t count)
{
	char hex[2 * MESSAGE + 1];

	for (size_t i = 0; i < count; i++)
		snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
	assert_string_equal(hex, wanted);
}

static void as_others_do_it(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(goldens) / sizeof(*goldens); i++) {
		unsigned char key[NET_KEY_BYTES], ours[NET_KEY_BYTES], theirs[NET_KEY_BYTES], read[40];
		unsigned char hello[48 + 5], welcome[48 + 7], packet[32] = { 1, 2, 3 }, later[32] = { 1, 2, 3 };
		struct net_sealing to_send, to_receive;
		struct pair pair;

		if (!net_cipher_here(goldens[i].cipher))
			continue;
		for (int j = 0; j < NET_KEY_BYTES; j++) {
			key[j] = (unsigned char)j;
			ours[j] = (unsigned char)(3 * j + 1);
			theirs[j] = (unsigned char)(5 * j + 2);
		}
		net_noise_begin(&pair.client, goldens[i].cipher, true, "clear", 5, key, ours);
		net_noise_begin(&pair.daemon, goldens[i].cipher, false, "clear", 5, key, theirs);
		net_noise_write(&pair.client, "hello", 5, hello);
		assert_int_equal(net_noise_read(&pair.daemon, hello, sizeof(hello), read), 5);
		net_noise_write(&pair.daemon, "welcome", 7, welcome);
		assert_int_equal(net_noise_read(&pair.client, welcome, sizeof(welcome), read), 7);
		net_noise_split(&pair.client, &to_send, &to_receive);
		net_seal(&to_send, 7, "hd", 2, packet, 16);
		net_seal(&to_send, (1 << 24) + 1, "hd", 2, later, 16);
		check_hex(goldens[i].hello, hello, sizeof(hello));
		check_hex(goldens[i].welcome, welcome, sizeof(welcome));
		check_hex(goldens[i].packet, packet, sizeof(packet));
		check_hex(goldens[i].later, later, sizeof(later));
	}
}

static void whoever_has_another_key(void **state)
{
	unsigned char hello[MESSAGE], read[40], other[NET_KEY_BYTES];
	struct pair pair;

	(void)state;
	memcpy(other, psk, sizeof(other));
	other[31] ^= 1;
	begin(&pair, NET_CIPHER_CHACHA);
	net_noise_begin(&pair.daemon, NET_CIPHER_CHACHA, false, clear, sizeof(clear), other, secrets[1]);
	net_noise_write(&pair.client, read, 40, hello);
	assert_int_equal(net_noise_read(&pair.daemon, hello, MESSAGE, read), -EBADMSG);
	net_noise_begin(&pair.daemon, NET_CIPHER_CHACHA, false, "another clear part", 18, psk, secrets[1]);
	assert_int_equal(net_noise_read(&pair.daemon, hello, MESSAGE, read), -EBADMSG);
}

/* Every bit of either message counts. */
static void changed_handshakes(void **state)
{
	(void)state;
	for (uint32_t bit = 0; bit < 2 * MESSAGE * 8; bit++) {
		const bool first = bit < MESSAGE * 8;
		unsigned char message[MESSAGE], read[40];
		struct pair pair;

		/* X25519 ignores the highest bit of a key, but the hash does not. */
		begin(&pair, NET_CIPHER_CHACHA);
		memset(read, 7, sizeof(read));
		net_noise_write(&pair.client, read, 40, message);
		if (first)
			message[bit / 8] ^= (unsigned char)(1 << bit % 8);
		assert_int_equal(net_noise_read(&pair.daemon, message, MESSAGE, read), first ? -EBADMSG : 40);
		if (first)
			continue;
		net_noise_write(&pair.daemon, read, 40, message);
		message[bit / 8 - MESSAGE] ^= (unsigned char)(1 << bit % 8);
		assert_int_equal(net_noise_read(&pair.client, message, MESSAGE, read), -EBADMSG);
	}
}

static void keys_that_make_no_secret(void **state)
{
	unsigned char message[MESSAGE], read[40] = { 0 };
	struct pair pair;

	(void)state;
	begin(&pair, NET_CIPHER_CHACHA);
	/* A client that knows the key, and sends zero for an ephemeral one: WELCOME must not be readable by all who know the key. */
	net_noise_write(&pair.client, read, 40, message);
	memset(message, 0, NET_KEY_BYTES);
	assert_int_equal(net_noise_read(&pair.daemon, message, MESSAGE, read), -EBADMSG);
	for (size_t cut = 0; cut < NET_KEY_BYTES + NET_TAG_BYTES; cut++)
		assert_int_equal(net_noise_read(&pair.daemon, message, cut, read), -EBADMSG);
}

static void changed_packets(void **state)
{
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		unsigned char sealed[64 + NET_TAG_BYTES] = "body", body[sizeof(sealed)], head[8] = "header!";
		struct ends ends;

		if (!net_cipher_here(ciphers[i]))
			continue;
		connect_ends(ciphers[i], &ends);
		net_seal(&ends.to_daemon, 3, head, sizeof(head), sealed, 64);
		for (size_t bit = 0; bit < 8 * sizeof(sealed); bit++) {
			memcpy(body, sealed, sizeof(sealed));
			body[bit / 8] ^= (unsigned char)(1 << bit % 8);
			assert_int_equal(net_open(&ends.from_client, 3, head, sizeof(head), body, sizeof(body)), -EBADMSG);
		}
		memcpy(body, sealed, sizeof(sealed));
		assert_int_equal(net_open(&ends.from_client, 4, head, sizeof(head), body, sizeof(body)), -EBADMSG);
		memcpy(body, sealed, sizeof(sealed));
		assert_int_equal(net_open(&ends.from_client, 3, "another", 8, body, sizeof(body)), -EBADMSG);
		memcpy(body, sealed, sizeof(sealed));
		assert_int_equal(net_open(&ends.from_daemon, 3, head, sizeof(head), body, sizeof(body)), -EBADMSG);
		for (size_t cut = 0; cut < sizeof(sealed); cut++) {
			memcpy(body, sealed, sizeof(sealed));
			assert_int_equal(net_open(&ends.from_client, 3, head, sizeof(head), body, cut), -EBADMSG);
		}
		memcpy(body, sealed, sizeof(sealed));
		assert_int_equal(net_open(&ends.from_client, 3, head, sizeof(head), body, sizeof(body)), 64);
	}
}

static void keys_move_on(void **state)
{
	const uint64_t epoch = UINT64_C(1) << NET_REKEY_SHIFT;
	unsigned char body[16 + NET_TAG_BYTES] = "epochs", first[sizeof(body)], last[sizeof(body)];
	struct ends ends;

	(void)state;
	connect_ends(NET_CIPHER_CHACHA, &ends);
	memcpy(first, body, sizeof(body));
	memcpy(last, body, sizeof(body));
	net_seal(&ends.to_daemon, epoch - 1, NULL, 0, last, 16);
	net_seal(&ends.to_daemon, epoch, NULL, 0, first, 16);
	memcpy(body, first, sizeof(body));
	body[0] ^= 1; /* who only says that there is a new epoch moves nothing */
	assert_int_equal(net_open(&ends.from_client, epoch, NULL, 0, body, sizeof(body)), -EBADMSG);
	assert_int_equal(net_open(&ends.from_client, epoch - 1, NULL, 0, last, sizeof(last)), 16);
	assert_string_equal((char *)last, "epochs");
	memcpy(body, first, sizeof(body));
	assert_int_equal(net_open(&ends.from_client, 2 * epoch, NULL, 0, body, sizeof(body)), -EBADMSG);
	assert_int_equal(net_open(&ends.from_client, epoch, NULL, 0, first, sizeof(first)), 16);
	assert_string_equal((char *)first, "epochs");
	assert_int_equal(ends.from_client.epoch, 1);
	assert_memory_equal(ends.from_client.key, ends.to_daemon.key, NET_KEY_BYTES);
}

/* Beside a set of all that came. */
static void replays(void **state)
{
	enum { NUMBERS = 20000 };
	static bool come[NUMBERS];
	struct net_replay replay = { 0 };
	uint64_t seed = 5, newest = 0;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		const uint64_t step = base_rand_next(&seed) % 16 == 0 ? base_rand_next(&seed) % 300 : 1;
		const uint64_t back = base_rand_next(&seed) % 1500;
		const uint64_t number = base_rand_next(&seed) % 4 == 0 ? newest + step : newest - (back < newest ? back : newest);
		const bool old = replay.end > number && replay.end - number > NET_REPLAY_BITS;

		if (number >= NUMBERS)
			break;
		assert_int_equal(net_replay_is_new(&replay, number), !old && !come[number]);
		if (old || come[number])
			continue;
		net_replay_note(&replay, number);
		come[number] = true;
		newest = number > newest ? number : newest;
	}
	assert_in_range(newest, NUMBERS / 2, NUMBERS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_agree),
		cmocka_unit_test(as_others_do_it),
		cmocka_unit_test(whoever_has_another_key),
		cmocka_unit_test(changed_handshakes),
		cmocka_unit_test(keys_that_make_no_secret),
		cmocka_unit_test(changed_packets),
		cmocka_unit_test(keys_move_on),
		cmocka_unit_test(replays),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
