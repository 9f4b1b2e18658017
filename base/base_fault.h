/*
 * Containment of SIGBUS. A hole punched into a client's segment, or a model file truncated under its mapping,
 * makes a plain read of the daemon fault. Each such mapping is registered here; on a fault inside one, the
 * handler maps zeroed anonymous memory over the whole registered range, raises the range's flag, and the read
 * goes on (it sees zeros). Its owner sees the flag and drops that client or that model.
 *
 * The table is fixed in size; add and remove take a lock, and belong to cold paths; any thread may fault.
 */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdatomic.h>
#include <stddef.h>

enum { BASE_FAULT_RANGES = 4096 };

/* Installs the handler; a thread that has an alternate stack takes the signal there. A fault outside every
 * range keeps the action it had before, by default the end of the process. A second call changes nothing,
 * unless somebody else took the signal meanwhile. Any thread, not in a signal handler. -errno with a message. */
int base_fault_install(void);

/* memory and size_bytes are one whole mapping. flag becomes 1 on a fault in it, and must outlive the
 * registration. No thread may touch the range any more when it is removed. Returns a handle >= 0, or -ENOSPC
 * (the table is full) or -EINVAL (not page aligned, or empty) with a message. */
int base_fault_add(void *memory, size_t size_bytes, _Atomic int *flag);
void base_fault_remove(int handle);

#endif
