/*
 * What attnctl shows of the network front. Control thread.
 */
#ifndef SVC_STATUS_NET_H
#define SVC_STATUS_NET_H

#include <cjson/cJSON.h>

#include "service/svc_daemon.h"

/* Adds "network", where there are listeners. */
void svc_status_add_network(cJSON *root, const struct svc_daemon *daemon);

#endif
