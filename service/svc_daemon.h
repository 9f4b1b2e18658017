/*
 * The daemon as a whole: what it is made of, and in which order that is built and taken down.
 * Shared by the files of service/ that belong to the control thread; the roles themselves know
 * nothing of it.
 *
 *   control thread: svc_control (attach, liveness, signals), svc_status (what attnctl shows)
 *   device agents:  agent 0 polls front + scheduler 0, agent n scheduler n; each with the workers
 * of its backend text agent:     svc_text
 */
#ifndef SVC_DAEMON_H
#define SVC_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base_topo.h"
#include "service/svc_agent.h"
#include "service/svc_config.h"
#include "service/svc_front.h"
#include "service/svc_network.h"
#include "service/svc_place.h"
#include "service/svc_probe.h"
#include "service/svc_text.h"
#include "shm-ipc/shm_view.h"

enum { SVC_MISSING_MAX = 16 };

/* Fronts, each with a lane to every device and to the text role, in the order of their clients' numbers. */
enum { SVC_LANE_SHM, SVC_LANE_NET, SVC_LANES };

/* What lies between a front and one of these roles. */
struct svc_lane {
	struct base_spsc in, out;
	struct svc_agent *front; /* woken when there is something in `out`; NULL: its thread is the role's own */
	uint64_t woken_at;       /* for so many replies */
};

struct svc_device {
	struct kern_backend *backend;
	struct model *models[SCHED_MODELS_MAX];
	struct sched_model sched_models[SCHED_MODELS_MAX];
	uint32_t model_count;
	int64_t calibrate_ns; /* of each model */
	struct sched *sched;
	struct svc_lane lanes[SVC_LANES];
	struct svc_agent agent;
	struct svc_probe *probe;
};

/* A fast path that this machine or this user does not have, and why: said at start and by attnctl
 * status. */
struct svc_missing {
	char what[32], why[160];
};

struct svc_daemon {
	struct svc_config config;
	struct base_topo *topo;
	struct svc_place place;
	uint64_t boot_id;
	int64_t started_ns;
	struct sched_tenant tenants[SCHED_TENANTS_MAX];
	uint64_t secret[2]; /* of this life */
	uint64_t tenant_models[SCHED_TENANTS_MAX];
	uint32_t tenant_count;

	struct svc_device devices[SVC_DEVICES_MAX];
	uint32_t device_count;
	struct svc_front *front;
	struct svc_network *network; /* NULL: no listeners */
	struct svc_text *text;
	const struct model_tokenizer *tokenizers[SCHED_MODELS_MAX];
	struct svc_agent text_agent;
	struct svc_lane text_lanes[SVC_LANES];
	struct base_spsc commands, events;
	int events_fd; /* the front's word to control: an eventfd */
	struct shm_view view; /* what operators see without asking */
	int dma_latency_fd;
	uint32_t missing_count;
	struct svc_missing missing[SVC_MISSING_MAX];
};

/* Everything but the sockets, threads not yet started. -errno with a message; then the daemon is
 * already taken down. */
int svc_daemon_create(struct svc_daemon *daemon, const struct svc_config *config);
/* Its devices are calibrated when it returns. */
int svc_daemon_start(struct svc_daemon *daemon);
/* Joins the threads. Then clients' memory may go, and then the daemon. */
void svc_daemon_stop(struct svc_daemon *daemon);
void svc_daemon_destroy(struct svc_daemon *daemon);

/* Control thread, now and then: says to operators' readers that the daemon lives, and what its front has done. */
void svc_daemon_say_alive(struct svc_daemon *daemon, uint32_t clients);

void svc_daemon_missing(struct svc_daemon *daemon, const char *what, const char *why);

#endif
