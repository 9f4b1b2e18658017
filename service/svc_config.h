/*
 * The daemon's configuration: one table of settings (name, type, range, default, meaning), from
 * which come the parser, `attnd -t`, `attnd --print-config` and the defaults. Sections [model NAME]
 * and [tenant NAME] may repeat.
 *
 * Control thread, at start and on reload. A configuration is untrusted input: every value is
 * checked, and a bad one is an error with file, line, key and value.
 */
#ifndef SVC_CONFIG_H
#define SVC_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "netio/net_port.h"
#include "sched/sched.h"

enum { SVC_NAME_BYTES = 64, SVC_PATH_BYTES = 1024, SVC_CPUS_MAX = 256, SVC_AUTO = -1 };

enum svc_huge { SVC_HUGE_AUTO, SVC_HUGE_YES, SVC_HUGE_NO };
enum svc_idle { SVC_IDLE_ADAPTIVE, SVC_IDLE_SPIN, SVC_IDLE_SLEEP };
enum svc_nodes { SVC_NODES_ALL, SVC_NODES_FIRST };

struct svc_cpu_list {
	uint32_t count; /* 0: auto */
	uint32_t cpus[SVC_CPUS_MAX];
};

struct svc_model_config {
	char name[SVC_NAME_BYTES];
	char path[SVC_PATH_BYTES];
};

struct svc_tenant_config {
	char name[SVC_NAME_BYTES];
	int64_t uid, gid; /* -1: any */
	char models[512]; /* names, separated by blanks; "*": all */
	bool attention;
	char group[SVC_NAME_BYTES]; /* finds the cached prefixes of tenants with the same one; "": of nobody else */
	int64_t clients, sessions, kv_bytes, weight;
	int64_t requests, device_ms, device_burst_ms; /* 0: no limit, no limit, a tenth of a second's */
	char key_file[SVC_PATH_BYTES]; /* proves who is at the other end of a network connection; "": nobody comes that way */
};

enum svc_net_transport { SVC_NET_AUTO, SVC_NET_URING, SVC_NET_SOCKETS };

struct svc_listen_config {
	char name[SVC_NAME_BYTES];
	struct net_listener at;
	bool plain, trusted;         /* takes connections without a key; though it is not on loopback */
	char tenant[SVC_NAME_BYTES]; /* whose these are; "": the first tenant's */
};

struct svc_config {
	char runtime_dir[SVC_PATH_BYTES];
	char log_level[16];
	char log_file[SVC_PATH_BYTES];

	char socket_mode[8];
	int64_t huge_pages; /* enum svc_huge */
	int64_t clients_bytes_max;
	int64_t max_clients, arena_max_bytes, submission_slots, completion_slots, attach_per_second;
	int64_t timelines;

	int64_t workers, front_cpu; /* SVC_AUTO */
	struct svc_cpu_list worker_cpus;
	int64_t idle;  /* enum svc_idle */
	int64_t nodes; /* enum svc_nodes */
	int64_t spin_us;
	bool cpu_dma_latency, fifo;

	int64_t kv_pool_bytes; /* SVC_AUTO */
	int64_t kv_default;    /* enum kern_kv */
	bool prefix_cache;

	int64_t sessions, requests, client_requests, tokens, step_rows, prefill_chunk, out_rows, speculate;
	int64_t calibrate_ms;

	int64_t net_transport; /* enum svc_net_transport */
	int64_t net_connections, net_half_open, net_in_flight, net_streams, net_window_bytes, net_message_bytes, net_memory_bytes;
	int64_t net_resume_ms, net_hello_ms, net_idle_s, net_slow_s;
	bool net_cookies;

	uint32_t model_count, tenant_count, listen_count;
	struct svc_listen_config listens[NET_LISTENERS_MAX];
	struct svc_model_config models[SCHED_MODELS_MAX];
	struct svc_tenant_config tenants[SCHED_TENANTS_MAX];
};

void svc_config_defaults(struct svc_config *config);
/* Reads a file on top of what is there. -errno with a message. */
int svc_config_file(struct svc_config *config, const char *path);
/* One "section.key=value" ("model.NAME.path=FILE"). -EINVAL with a message. */
int svc_config_set(struct svc_config *config, const char *assignment);
/* What no single value shows: files there, names known, limits that fit each other. -EINVAL with a
 * message. */
int svc_config_check(const struct svc_config *config);
/* [shm] socket_mode as a number; -EINVAL. */
int svc_config_socket_mode(const struct svc_config *config);
/* A commented file with every setting at its default. */
void svc_config_print_defaults(FILE *file);

/* The tenant of a peer: the first entry that matches its uid and gid; -ENOENT when none does. */
int svc_config_tenant(const struct svc_config *config, uint32_t uid, uint32_t gid);

#endif
