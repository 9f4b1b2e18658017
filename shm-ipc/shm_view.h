/*
 * The memory that shows what the daemon does (base/base_view.h): a client's part of its read-only segment, and the operators'
 * segment. Made by the control role; found and checked by who reads it.
 *
 * How operators get theirs: a connection to the control socket (attnd.ctl, for the daemon's user alone) that says "view\n" is
 * answered by a line of text, with a descriptor beside its first byte that can only read.
 */
#ifndef SHM_VIEW_H
#define SHM_VIEW_H

#include <stddef.h>
#include <stdint.h>

#include "base/base_view.h"
#include "shm-ipc/shm_layout.h"

enum { SHM_VIEW_DEVICES_MAX = 64 };

/* ---- a client's own -------------------------------------------------------------------------- */

/* 0 when there is nothing to see. */
uint64_t shm_view_own_bytes(uint32_t devices, uint32_t timelines);
/* The memory is zeroed. */
void shm_view_own_init(struct base_view_own_head *head, uint32_t devices, uint32_t timelines);
static inline struct base_view_own_device *shm_view_own_device(struct base_view_own_head *head, uint32_t device)
{
	return (struct base_view_own_device *)(void *)((unsigned char *)(head + 1) + device * head->device_bytes);
}

struct shm_view_own {
	const unsigned char *first; /* of the devices'; NULL: the daemon shows nothing */
	uint32_t devices, timelines;
	uint64_t device_bytes;
};

static inline const struct base_view_own_device *shm_view_own_at(const struct shm_view_own *own, uint32_t device)
{
	return (const struct base_view_own_device *)(const void *)(own->first + device * own->device_bytes);
}

/* In a client's mapping of R, whose head was checked. 0; -ENOTSUP: nothing there; -EPROTO: it does not lie in R. With a message. */
int shm_view_own_find(struct shm_view_own *own, const unsigned char *read_memory, const struct shm_daemon_head *head);

/* ---- the operators' -------------------------------------------------------------------------- */

struct shm_view {
	struct base_view_head *head; /* NULL: none */
	uint64_t bytes;
	uint32_t devices;
	int read_fd; /* what is handed out; the reader's: -1 */
};

/* -ENOMEM, -errno with a message. */
int shm_view_create(struct shm_view *view, uint32_t devices);
void shm_view_destroy(struct shm_view *view);
static inline struct base_view_device *shm_view_device(const struct shm_view *view, uint32_t device)
{
	return (struct base_view_device *)(void *)((unsigned char *)(view->head + 1) + device * sizeof(struct base_view_device));
}

/* The reader's: asks at the control socket, once, and maps what it is given after checking it. */
int shm_view_connect(struct shm_view *view, const char *path, int64_t timeout_ns);

#endif
