/*
 * Fuzzes the daemon's side of the network: net_host with the network front above it, over a transport in memory. The input is a program:
 * who connects, says HELLO and with which key, what bytes then come, whole packets sealed with the right key around chunks of the input
 * among them; what the devices answer, and how time goes on. After every poll all invariants are looked at, and in the end all memory is
 * back.
 *
 * Curves are not ours to fuzz, and took more than half of the time: here a point is a number, and to multiply is to add without carry.
 *
 *   operation u8, argument u8, then by operation: bytes u16 and so many bytes
 *
 * Of the argument, the lowest two bits say who: one of four.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/base_assert.h"
#include "base/base_bytes.h"
#include "tests/unit/net_front_rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { GUESTS = 4, CALLS = 64, OPERATIONS_MAX = 400 };

enum operation {
	OPERATION_POLL,
	OPERATION_CONNECT, /* argument: 4 datagrams, 8 sealed, 16 the other tenant's key */
	OPERATION_HELLO,   /* 4 with the token, 8 the same again */
	OPERATION_RAW,     /* these bytes as they are */
	OPERATION_DATA,    /* sealed, around these bytes; 4 twice, 8 with a bit changed, 16 in two pieces */
	OPERATION_REQUEST, /* the next one, 4 .. 28: which op; the bytes are its input, and it wants as many; 32: its record alone */
	OPERATION_ACK,     /* so many replies (argument / 4) have come; bytes: as they follow */
	OPERATION_END,     /* the stream breaks */
	OPERATION_BLOCK,   /* 4: or not */
	OPERATION_NO_ROOM, /* so often */
	OPERATION_ANSWER,  /* a device does: 1 of the text role, 2 a stream; argument / 4: which */
	OPERATION_TIME,    /* 2^argument ns */
	OPERATION_DRAIN,
	OPERATION_END_OF_ALL
};

struct guest {
	struct net_guest guest;
	bool used;
	uint32_t requests;
};

struct fuzz {
	struct front_rig *rig;
	struct guest guests[GUESTS];
	struct front_call calls[CALLS];
	uint32_t call_count;
	const uint8_t *at, *end;
	uint8_t argument;
};

static const struct front_limits limits = { .clients = 3,
	.in_flight = 3,
	.streams = 5,
	.window_bytes = 8 << 10,
	.message_bytes = 4 << 10,
	.devices = 2,
	.half_open = 6,
	.in_bytes = 16 << 10,
	.out_bytes = 8 << 10,
	.parts_bytes = 64 << 10,
	.tenant_clients = { 3, 2, 3 },
	.queue = 8,
	.resume_ns = INT64_C(10000000000),
	.slow_ns = INT64_C(5000000000),
	.hello_ns = INT64_C(2000000000),
	.idle_ns = INT64_C(30000000000) };

/* ---- curves, in libsodium's place ------------------------------------------------------------------------- */

int crypto_scalarmult_curve25519(unsigned char *shared, const unsigned char *secret, const unsigned char *point);
int crypto_scalarmult_curve25519_base(unsigned char *point, const unsigned char *secret);

/* Both sides come to the same: a + (b + G) = b + (a + G). Zero is refused there, too. */
int crypto_scalarmult_curve25519(unsigned char *shared, const unsigned char *secret, const unsigned char *point)
{
	unsigned char any = 0;

	for (uint32_t i = 0; i < NET_KEY_BYTES; i++) {
		shared[i] = secret[i] ^ point[i];
		any |= shared[i];
	}
	return any ? 0 : -1;
}

int crypto_scalarmult_curve25519_base(unsigned char *point, const unsigned char *secret)
{
	for (uint32_t i = 0; i < NET_KEY_BYTES; i++)
		point[i] = secret[i] ^ 0x5a;
	return 0;
}

/* ---- the program ------------------------------------------------------------------------------------------ */

static uint8_t next_byte(struct fuzz *fuzz)
{
	return fuzz->at < fuzz->end ? *fuzz->at++ : 0;
}

static const uint8_t *next_bytes(struct fuzz *fuzz, size_t *bytes, size_t most)
{
	const uint8_t *at;

	*bytes = next_byte(fuzz);
	*bytes |= (size_t)next_byte(fuzz) << 8;
	if (*bytes > (size_t)(fuzz->end - fuzz->at))
		*bytes = (size_t)(fuzz->end - fuzz->at);
	if (*bytes > most)
		*bytes = most;
	at = fuzz->at;
	fuzz->at += *bytes;
	return at;
}

static struct guest *who(struct fuzz *fuzz)
{
	return &fuzz->guests[fuzz->argument % GUESTS];
}

static bool is_stream(const struct guest *guest)
{
	return guest->guest.way.stream != NET_NO_STREAM;
}

/* ---- operations ------------------------------------------------------------------------------------------- */

/* What has come for everybody; only handshakes are looked at. */
static void hear_all(struct fuzz *fuzz)
{
	for (uint32_t i = 0; i < GUESTS; i++)
		for (int kind = 1; fuzz->guests[i].used && kind;)
			kind = net_guest_hear(&fuzz->guests[i].guest);
	fake_take_all(&fuzz->rig->fake);
}

static void poll_once(struct fuzz *fuzz)
{
	front_poll(fuzz->rig);
	hear_all(fuzz);
}

static void end(struct fuzz *fuzz)
{
	struct guest *guest = who(fuzz);

	if (guest->used && is_stream(guest))
		fake_end(&fuzz->rig->fake, &guest->guest.way);
	guest->used = false;
	poll_once(fuzz);
}

static void connect_guest(struct fuzz *fuzz)
{
	const bool datagram = fuzz->argument & 4, sealed = fuzz->argument & 8;
	struct guest *guest = who(fuzz);
	const struct net_welcome old = guest->guest.welcome;
	unsigned char key[NET_KEY_BYTES];

	end(fuzz);
	memset(key, fuzz->argument & 16 ? 2 : 1, sizeof(key));
	net_guest_init(&guest->guest, &fuzz->rig->fake, sealed ? NET_CIPHER_CHACHA : NET_CIPHER_PLAIN, key, fuzz->argument);
	guest->guest.welcome = old; /* whose token may be said again */
	if (datagram)
		guest->guest.way = fake_way(sealed ? FRONT_SEALED : FRONT_PLAIN, fuzz->argument);
	else
		fake_connect(&fuzz->rig->fake, sealed ? FRONT_SEALED : FRONT_PLAIN, &guest->guest.way);
	guest->used = true;
	net_guest_make_hello(&guest->guest);
}

static void hello(struct fuzz *fuzz)
{
	struct guest *guest = who(fuzz);

	if (!guest->used)
		return;
	memset(guest->guest.hello.resume, 0, NET_NAME_BYTES);
	if (fuzz->argument & 4)
		memcpy(guest->guest.hello.resume, guest->guest.welcome.token, NET_NAME_BYTES);
	if (!(fuzz->argument & 8))
		net_guest_make_hello(&guest->guest);
	net_guest_say_hello(&guest->guest);
	poll_once(fuzz);
	if (!(guest->guest.welcome.flags & NET_RESUMED))
		guest->requests = 0;
}

static void raw(struct fuzz *fuzz)
{
	struct guest *guest = who(fuzz);
	size_t bytes;
	const uint8_t *at = next_bytes(fuzz, &bytes, NET_PACKET_BYTES_MAX + 1);

	if (guest->used)
		fake_come(&fuzz->rig->fake, &guest->guest.way, at, bytes);
}

static void send_data(struct fuzz *fuzz, struct guest *guest, struct net_guest_data *sealed)
{
	struct fake_port *fake = &fuzz->rig->fake;
	const struct net_way *way = &guest->guest.way;
	size_t cut = sealed->bytes;

	net_guest_end(&guest->guest, sealed, false);
	if (fuzz->argument & 8)
		sealed->packet[fuzz->argument * 7 % sealed->bytes] ^= 1;
	cut = fuzz->argument & 16 && is_stream(guest) ? sealed->bytes * fuzz->argument / 256 : sealed->bytes;
	fake_come(fake, way, sealed->packet, cut);
	if (cut < sealed->bytes)
		fake_come(fake, way, sealed->packet + cut, sealed->bytes - cut);
	if (fuzz->argument & 4)
		fake_come(fake, way, sealed->packet, sealed->bytes);
}

static void data(struct fuzz *fuzz)
{
	struct guest *guest = who(fuzz);
	struct net_guest_data sealed = { .bytes = 0 };
	size_t bytes;
	const uint8_t *at = next_bytes(fuzz, &bytes, 1300);

	if (!guest->used || !guest->guest.welcomed)
		return;
	net_guest_begin(&guest->guest, &sealed);
	memcpy(sealed.body.at, at, bytes);
	sealed.body.at += bytes;
	send_data(fuzz, guest, &sealed);
}

static void request(struct fuzz *fuzz)
{
	struct guest *guest = who(fuzz);
	struct attnd_request record = { .version = ATTND_VERSION, .op = (uint8_t)(fuzz->argument / 4 % 8 + 1) };
	struct net_guest_data sealed = { .bytes = 0 };
	size_t bytes;
	uint32_t taken = 0;
	const uint8_t *at = next_bytes(fuzz, &bytes, limits.message_bytes + 1);

	if (!guest->used || !guest->guest.welcomed)
		return;
	record.in_bytes = record.out_capacity = (uint32_t)bytes;
	record.request_id = fuzz->argument;
	guest->requests++;
	fuzz->argument %= GUESTS;
	for (uint32_t offset = 0; offset == 0 || offset < bytes; offset += taken) {
		net_guest_begin(&guest->guest, &sealed);
		BASE_ASSERT(net_part_put(&sealed.body, NET_REQUEST, guest->requests, &record, at, (uint32_t)bytes, offset, &taken));
		send_data(fuzz, guest, &sealed);
		if (taken == 0)
			break;
	}
}

static void ack(struct fuzz *fuzz)
{
	struct guest *guest = who(fuzz);
	const struct net_come come = { .number = fuzz->argument / 4, .credits = fuzz->argument / 8 };
	struct net_guest_data sealed = { .bytes = 0 };

	if (!guest->used || !guest->guest.welcomed)
		return;
	net_guest_begin(&guest->guest, &sealed);
	(void)net_come_put(&sealed.body, NET_ACK, fuzz->argument & 4 ? NET_ACK_PROBE : 0, &come);
	fuzz->argument %= GUESTS;
	send_data(fuzz, guest, &sealed);
}

static void block(struct fuzz *fuzz)
{
	struct guest *guest = who(fuzz);

	if (guest->used && is_stream(guest))
		fake_block(&fuzz->rig->fake, &guest->guest.way, fuzz->argument & 4);
}

static void take_calls(struct fuzz *fuzz)
{
	for (uint32_t queue = 0; queue < FRONT_QUEUES; queue++)
		while (fuzz->call_count < CALLS && front_next(fuzz->rig, queue, &fuzz->calls[fuzz->call_count]))
			fuzz->call_count++;
}

static void answer(struct fuzz *fuzz)
{
	struct front_call *call;

	take_calls(fuzz);
	if (fuzz->call_count == 0)
		return;
	call = &fuzz->calls[fuzz->argument / 4 % fuzz->call_count];
	if (fuzz->argument & 2 && call->queue != FRONT_TEXT) {
		(void)front_stream(fuzz->rig, call, 0);
		return;
	}
	front_final(fuzz->rig, call, ATTND_OK, call->message.record.out_capacity);
	*call = fuzz->calls[--fuzz->call_count];
}

static void run(struct fuzz *fuzz, enum operation operation)
{
	switch (operation) {
	case OPERATION_CONNECT: connect_guest(fuzz); break;
	case OPERATION_HELLO: hello(fuzz); break;
	case OPERATION_RAW: raw(fuzz); break;
	case OPERATION_DATA: data(fuzz); break;
	case OPERATION_REQUEST: request(fuzz); break;
	case OPERATION_ACK: ack(fuzz); break;
	case OPERATION_END: end(fuzz); break;
	case OPERATION_BLOCK: block(fuzz); break;
	case OPERATION_NO_ROOM: fuzz->rig->fake.rooms_refused = fuzz->argument; break;
	case OPERATION_ANSWER: answer(fuzz); break;
	case OPERATION_TIME: fuzz->rig->clock.fake_ns += INT64_C(1) << fuzz->argument % 36; break;
	case OPERATION_DRAIN: svc_net_drain(fuzz->rig->net, fuzz->argument & 4); break;
	default: poll_once(fuzz);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data_in, size_t size)
{
	struct fuzz fuzz = { .rig = front_rig_create(&limits), .at = data_in, .end = data_in + size };

	fuzz.rig->any_input = true;
	for (uint32_t i = 0; i < OPERATIONS_MAX && fuzz.at < fuzz.end; i++) {
		const uint8_t operation = next_byte(&fuzz);

		fuzz.argument = next_byte(&fuzz);
		run(&fuzz, operation % OPERATION_END_OF_ALL);
	}
	poll_once(&fuzz);
	front_rig_destroy(fuzz.rig);
	return 0;
}
