/*
 * The network front's inside: svc_net.c (the role: replies, time), svc_net_client.c (who is there), svc_net_request.c (requests and what is
 * sent back).
 */
#ifndef SVC_NET_INTERNAL_H
#define SVC_NET_INTERNAL_H

#include "base/base_arena.h"
#include "netio/net_outbox.h"
#include "service/svc_net.h"

#define SVC_NO_LINK UINT32_MAX
#define SVC_NO_CLIENT UINT32_MAX

enum {
	SVC_NET_TEXT_OPEN_MAX = 8, /* of one client: the text role takes requests in order */
	SVC_NET_REPLIES_PER_POLL = 512,
};

/* How far the front is drained. */
enum { DRAIN_NEW = 1, DRAIN_ALL };

/* In a device's place: the text role, which makes no streams. */
#define SVC_FROM_TEXT UINT32_MAX

struct svc_net;

enum net_client_state { NET_CLIENT_FREE, NET_CLIENT_PROMISED, NET_CLIENT_LIVE, NET_CLIENT_LEAVING };

/* A request that a device or the text role has. */
struct net_call {
	void *in, *out; /* blocks, or NULL */
	uint64_t request_id;
	uint32_t out_capacity;
	uint32_t next_free;
	bool used;
};

struct net_client {
	struct svc_net *net;
	uint8_t state; /* enum net_client_state */
	bool touched;  /* in net->touched */
	bool waiting;  /* in net->waiting: for memory */
	bool away;     /* in the queue of those without a link */
	bool say_taken, must_say_taken, say_again, say_pong, say_have;
	bool haves;    /* long messages are told of unit by unit */
	bool bye;      /* it said so */
	uint32_t taken_poll; /* in which say_taken was set */
	bool short_of_memory; /* the pool had none for it, and none was given back since */
	uint32_t tenant, link, promised_link;
	uint64_t promise;       /* the number of the last promise of this place */
	uint32_t life;          /* counts those who have had this place */
	unsigned char token[NET_NAME_BYTES];
	uint32_t next, before; /* among the free (next), or the away */
	int64_t away_since_ns;
	/* When more of its requests came, or memory of theirs was released; when it took a result, or had none. */
	int64_t in_moved_ns, out_moved_ns;
	struct net_inbox *inbox;
	struct net_outbox *outbox;
	struct net_call *calls; /* [in_flight] */
	uint32_t call_free, open, text_open;
	uint64_t in_bytes;      /* of blocks for requests */
	uint64_t call_bytes;    /* of these: of calls */
	uint32_t part_number;   /* of the request that a part is being taken of */
	uint64_t out_reserved;  /* of calls: what their results may have */
	/* Streams: what the schedulers may still send; completions sent, and those of them that the client has consumed, in all; credits that
	 * wait to be given back. */
	uint32_t credits_out, streams_sent, streams_consumed, credits_due;
	uint8_t *stream_device; /* [streams_mask + 1]: which device made each; NULL with one device */
	struct net_times pong;
	uint32_t quiet_due;     /* devices and text role that have not let go yet */
};

struct svc_net {
	struct svc_net_options options;
	struct net_host *host;
	const struct net_port *port;
	struct net_client *clients; /* [clients_max] */
	struct net_call *calls;     /* all clients' */
	uint8_t *stream_devices;
	uint32_t streams_mask, outbox_max;
	uint64_t in_bytes_max; /* of blocks for one client's requests */
	uint32_t free_first, used;
	uint32_t away_first, away_last;
	uint32_t *link_life;        /* [links]: of the client, when the link was welcomed for it */
	uint32_t *touched, touched_count;
	uint32_t *waiting, waiting_count;
	bool released;              /* memory was given back since the waiting were looked at */
	int64_t now_ns, slow_look_ns;
	const struct net_client *slowest_leaves; /* it was let go of because it was slow; NULL: nobody */
	uint32_t polls;
	uint64_t promises;
	uint32_t open_turn;         /* which device the next OPEN goes to */
	_Atomic uint32_t draining;  /* DRAIN_NEW: nobody new; DRAIN_ALL: everybody goes */
	uint32_t drained;           /* as far as it has been done */
	uint32_t tenant_clients[SCHED_TENANTS_MAX], tenant_clients_max[SCHED_TENANTS_MAX];
	struct svc_net_counters counters;
	struct base_region memory;  /* clients, calls, inboxes, outboxes */
};

static inline void svc_count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

static inline uint32_t svc_net_index(const struct svc_net *net, const struct net_client *client)
{
	return (uint32_t)(client - net->clients);
}

/* The client is looked at in this poll: requests that may go on, and what there is to be sent. */
void svc_net_touch(struct svc_net *net, struct net_client *client);
/* The client's next request, or what it has yet to send of one, waits until memory is given back. */
void svc_net_wait(struct svc_net *net, struct net_client *client);
/* A block for a result, or NULL: the client waits. */
void *svc_net_take_out(struct net_client *client, uint32_t bytes);
/* Gives a block for a request, or for a result, back. NULL is fine. */
void svc_net_give_in(struct net_client *client, void *block);
void svc_net_give_out(struct net_client *client, void *block);

/* ---- svc_net_client.c ------------------------------------------------------------------------------------- */

uint32_t svc_net_on_welcome(void *net, uint32_t link, uint32_t tenant, const struct net_hello *hello, struct net_welcome *welcome,
	uint32_t *owner);
void svc_net_on_confirmed(void *net, uint32_t owner, uint32_t link, uint64_t features);
/* Why a link that was confirmed is nobody's. */
uint32_t svc_net_why_not(const struct svc_net *net, const struct net_client *client, uint32_t link);
void svc_net_on_gone(void *net, uint32_t owner, uint32_t link);
/* Ends a client: the devices are told; its link, if there is one, is closed. */
void svc_net_leave(struct svc_net *net, struct net_client *client, uint32_t why);
/* One more of those whom its end was told has let go. */
void svc_net_quiet(struct svc_net *net, struct net_client *client);
/* Clients that were away for too long. How many. */
int svc_net_expire(struct svc_net *net);
/* Inboxes, outboxes and calls of all clients. -ENOMEM with a message. */
int svc_net_clients_create(struct svc_net *net);
void svc_net_clients_destroy(struct svc_net *net);

/* ---- svc_net_request.c ------------------------------------------------------------------------------------ */

uint32_t svc_net_on_body(void *net, uint32_t owner, uint32_t link, struct net_reader *chunks);
/* Hands on whole requests as long as there is room for what comes of them. */
void svc_net_deliver(struct svc_net *net, struct net_client *client);
/* A completion of a device or the text role. */
void svc_net_reply(struct svc_net *net, struct net_client *client, const struct attnd_completion *from, uint32_t device);
void svc_net_return_credits(struct svc_net *net, struct net_client *client);
/* Sends what there is to be said; false: not all of it. */
bool svc_net_send(struct svc_net *net, struct net_client *client);
/* Whether something to be said waits for the next poll. */
bool svc_net_says_later(const struct svc_net *net, const struct net_client *client);
void svc_net_tell(struct svc_net *net, uint32_t device, const struct sched_message *message);

#endif
