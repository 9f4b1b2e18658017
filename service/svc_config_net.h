/*
 * What the configuration says of the network: [listen NAME] sections, and tenants' keys.
 */
#ifndef SVC_CONFIG_NET_H
#define SVC_CONFIG_NET_H

#include "netio/net_hello.h"
#include "service/svc_config.h"

/* One key of [listen name]. -EINVAL with a message. */
int svc_config_listen_set(struct svc_config *config, const char *name, const char *key, const char *value);
/* What no single value shows: plain listeners where nobody said that they are trusted, tenants that are not there, keys that are none.
 * Reads key files. -errno with a message. */
int svc_config_net_check(const struct svc_config *config);
/* A tenant's key. -errno with a message that does not show it. */
int svc_config_key(const struct svc_tenant_config *tenant, unsigned char key[NET_KEY_BYTES]);
/* The number of the tenant whose plain connections a listener takes. */
uint32_t svc_config_listen_tenant(const struct svc_config *config, const struct svc_listen_config *listen);

#endif
