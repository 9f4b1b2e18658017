/*
 * The network front between a fake port and devices that the test plays, and clients made of the library's parts but for timers: they send
 * what they are told to, when they are told to.
 */
#ifndef NET_FRONT_RIG_H
#define NET_FRONT_RIG_H

#include "netio/net_outbox.h"
#include "service/svc_net.h"
#include "tests/unit/net_guest.h"

enum { FRONT_CLIENTS_MAX = 16, FRONT_TENANTS = 3, FRONT_CLIENT_FIRST = 5 };
enum { FRONT_TEXT = SVC_DEVICES_MAX, FRONT_QUEUES };
/* Listeners: sealed connections by the keys of tenants 0 and 1; also plain ones, of tenant 2. */
enum { FRONT_SEALED, FRONT_PLAIN, FRONT_LISTENERS };

struct front_limits {
	uint32_t clients, in_flight, streams, window_bytes, message_bytes, devices, half_open;
	uint32_t in_bytes, out_bytes, parts_bytes; /* pools */
	uint32_t tenant_clients[FRONT_TENANTS];
	uint32_t queue; /* places beside those for clients that come and go */
	int64_t resume_ns, slow_ns, hello_ns, idle_ns;
};

struct front_rig {
	struct base_clock clock;
	struct fake_port fake;
	struct net_pool *in, *out, *parts;
	struct base_spsc to[FRONT_QUEUES], from[FRONT_QUEUES];
	struct svc_net *net;
	struct front_limits limits;
	uint64_t seed;
	uint32_t last_address;
	/* What each device, and the text role, knows of each client. */
	struct front_knows { bool there; uint32_t life, tenant, credits; } knows[FRONT_QUEUES][FRONT_CLIENTS_MAX];
	bool no_quiet;  /* GONE is not answered for now */
	bool any_input; /* what requests bring is not looked at */
	struct { uint32_t queue, client; } quiet_due[FRONT_QUEUES * FRONT_CLIENTS_MAX];
	uint32_t quiet_due_count;
};

extern const struct front_limits front_usual;
struct front_rig *front_rig_create(const struct front_limits *limits);
/* After the clients: lets everybody go, and looks that all memory is back. */
void front_rig_destroy(struct front_rig *rig);
/* A poll, and all invariants. */
void front_poll(struct front_rig *rig);
void front_wait(struct front_rig *rig, int64_t ns);
#define FRONT_COUNTER(rig, name) atomic_load(&svc_net_counters((rig)->net)->name)
#define FRONT_HOST_COUNTER(rig, name) atomic_load(&svc_net_host_counters((rig)->net)->name)

/* ---- devices ---------------------------------------------------------------------------------------------- */

struct front_call { struct sched_message message; uint32_t queue, life; };

/* The next request that a device (FRONT_TEXT: the text role) got. Whoever comes, goes or gives credits is noted on the way; false: nothing
 * is left. */
bool front_next(struct front_rig *rig, uint32_t queue, struct front_call *call);
/* Answers it; not if its client is gone. The result is front_byte() of the request's id. */
void front_final(struct front_rig *rig, const struct front_call *call, enum attnd_status status, uint32_t result_bytes);
/* false: no credit. */
bool front_stream(struct front_rig *rig, const struct front_call *call, uint32_t sequence);
unsigned char front_byte(uint64_t seed, uint32_t at);
/* Answers GONE where that was put off. */
void front_quiet(struct front_rig *rig);

/* ---- clients ---------------------------------------------------------------------------------------------- */

struct front_client {
	struct front_rig *rig;
	struct net_guest peer;
	struct net_inbox *inbox;   /* replies */
	struct net_outbox *outbox; /* requests */
	uint32_t consumed;         /* stream replies */
	uint32_t unfinished;       /* requests without their last reply */
	bool closed, pong_came, again; /* CLOSE came, PONG did, TAKEN did with AGAIN */
	uint32_t why;
	struct net_times pong;
	struct net_come taken;
	uint32_t takens, haves, replies_parts; /* chunks that came */
};

/* Connects, over a stream or datagrams; as tenant 2 where plain. false: was refused (peer.refused), or did not come through. */
bool front_connect(struct front_rig *rig, struct front_client *client, bool datagram, enum net_cipher cipher, uint32_t tenant);
/* By another way, with the token. */
bool front_resume(struct front_client *client);
/* Says HELLO on a new way, hears WELCOME, and does not show itself alive. */
bool front_half_open(struct front_client *client);
/* Its stream breaks. */
void front_break(struct front_client *client);
/* What it has is freed; the daemon's side is not told. */
void front_client_free(struct front_client *client);

/* Makes a request with so much input (front_byte() of its id), which is sent by front_send. Its number. */
uint32_t front_request(struct front_client *client, struct attnd_request record, uint32_t in_bytes);
/* Sends what waits to be sent, and an ACK. */
void front_send(struct front_client *client, uint8_t ack_flags);
/* The same as packets which are not sent: how many. */
uint32_t front_pack(struct front_client *client, struct net_guest_data *packets, uint32_t packets_max);
void front_ack(struct front_client *client, uint8_t flags);
/* Reads all that came. */
void front_hear(struct front_client *client);
/* The same of DATA that the peer has heard. */
void front_hear_body(struct front_client *client);
/* Another way of the same kind, which is not used yet. */
void front_new_way(struct front_client *client);
/* Nothing is there: neither requests nor replies. */
void front_forget(struct front_client *client);
/* A reply that is whole, in order; its result is checked and freed. false: none. */
bool front_reply(struct front_client *client, struct attnd_completion *completion);
/* The next reply is there, and this one. */
void front_expect(struct front_client *client, uint64_t id, enum attnd_status status, uint32_t result_bytes);
void front_bye(struct front_client *client);

#endif
