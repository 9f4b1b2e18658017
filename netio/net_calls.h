/*
 * What a client has asked and not been answered yet: which id its caller gave a request, and where the result goes.
 *
 * On the way requests have ids of this table: its place and the message's number. A caller's ids may be anything, twice the same too,
 * and an answer to what was never asked, or was answered, is found out. A CANCEL, which names another request, is translated.
 *
 * Pure; one thread. All memory is taken at creation. Answers come from a daemon that is not trusted with more than their contents.
 */
#ifndef NET_CALLS_H
#define NET_CALLS_H

#include "netio/net_inbox.h"

struct net_calls;

/* most: unfinished at once, at most NET_WINDOW_MAX. -EINVAL, -ENOMEM with a message. */
int net_calls_create(struct net_calls **calls, uint32_t most);
void net_calls_destroy(struct net_calls *calls);
/* Forgets all. */
void net_calls_reset(struct net_calls *calls);

/* How many are unfinished. */
uint32_t net_calls_count(const struct net_calls *calls);
/* Bytes of their inputs. */
uint64_t net_calls_in_bytes(const struct net_calls *calls);

/* Notes a request that becomes the message of this number, and makes `record` what goes on the way; there is room. out: memory of
 * record->out_capacity bytes, NULL where that is 0; it is written by net_calls_answer until the final one. */
void net_calls_add(struct net_calls *calls, struct attnd_request *record, void *out, uint32_t number);

/* Makes a completion of the caller's out of a reply, and copies its result out. Sets the number of the request. 0, or -EPROTO: nothing of
 * the kind was asked, or the result is longer than the room for it. */
int net_calls_answer(struct net_calls *calls, const struct net_inbox_message *reply, struct attnd_completion *completion, uint32_t *number);

#endif
