/*
 * The network's part of client_fake_daemon.h: the daemon's own front, service/svc_net.h, over real sockets, with the test's answers in the
 * place of a device and of the text role. Called by client_fake_daemon.c alone.
 */
#ifndef CLIENT_FAKE_NETWORK_H
#define CLIENT_FAKE_NETWORK_H

#include "tests/unit/client_fake_daemon.h"

/* Listens: daemon->network and address. Ends the process where it cannot. */
void fake_network_create(struct fake_daemon *daemon);
void fake_network_destroy(struct fake_daemon *daemon);
/* The thread's work, until the daemon is to end. */
void *fake_network_run(void *daemon);

bool fake_network_stream(struct fake_daemon *daemon, const struct attnd_completion *completion);
bool fake_network_cancelled(struct fake_daemon *daemon, uint64_t request_id);

#endif
