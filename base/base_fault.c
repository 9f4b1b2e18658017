/*
 * The SIGBUS handler and its table. Cold threads write the table, one at a time; the handler reads it on whichever
 * thread faulted, so it takes no lock and calls nothing but mmap(2), sigaction(2) and raise(3).
 *
 * A slot is guarded by its version, odd while the slot changes. The version of a live range is even, and the
 * handler re-checks it after reading the fields, so that it never acts on half of one range and half of
 * another:
 *
 *   writer                             handler
 *   version = odd, W1 fence            A1: version (acquire)
 *   fields (relaxed)                   fields (relaxed)
 *   R1: version = even (release)       W2 fence, version again: unchanged
 *
 * A slot's range goes through three states: WHOLE -> MENDING (one thread has won and maps the zeros) ->
 * MENDED. Threads that fault meanwhile wait for MENDED and then repeat their access.
 */
#include "base/base_fault.h"

#include "base/base_error.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum range_state { RANGE_WHOLE, RANGE_MENDING, RANGE_MENDED };

/* A mended range cannot fault again, but threads that faulted before it was mended arrive later. More late
 * arrivals than any machine has threads mean that something else is wrong with the range. */
enum { LATE_FAULTS_MAX = 1 << 16 };

struct fault_range {
	_Atomic uint32_t version;
	_Atomic uintptr_t start;
	_Atomic size_t size_bytes; /* 0: the slot is free */
	_Atomic(_Atomic int *) flag;
	_Atomic int state;
	_Atomic uint32_t late_faults;
};

static struct fault_range ranges[BASE_FAULT_RANGES];
static struct sigaction action_before;
static pthread_mutex_t writers = PTHREAD_MUTEX_INITIALIZER; /* the handler never takes it */

struct fault_view {
	uintptr_t start;
	size_t size_bytes;
	_Atomic int *flag;
};

/* False for a slot that is free or just changing: nobody may touch a range before it is added or after it is
 * removed, so a changing slot is not the one that faulted. */
static bool view_range(struct fault_range *range, struct fault_view *view)
{
	/* A1: sees the fields of the version it read; pairs with R1 in write_range. */
	uint32_t version = atomic_load_explicit(&range->version, memory_order_acquire);

	view->start = atomic_load_explicit(&range->start, memory_order_relaxed);
	view->size_bytes = atomic_load_explicit(&range->size_bytes, memory_order_relaxed);
	view->flag = atomic_load_explicit(&range->flag, memory_order_relaxed);
	/* W2: the second look at the version comes after the fields; pairs with W1 in write_range. */
	atomic_thread_fence(memory_order_acquire);
	return !(version & 1) && view->size_bytes != 0 &&
		version == atomic_load_explicit(&range->version, memory_order_relaxed);
}

/* The raw call: sanitizers wrap the C library's mmap in code that must not run in a handler. */
static bool map_zeros(const struct fault_view *view)
{
	long result = syscall(SYS_mmap, view->start, view->size_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0L);

	return (uintptr_t)result == view->start;
}

/* True when the access may be repeated. */
static bool mend(struct fault_range *range, const struct fault_view *view)
{
	int state = RANGE_WHOLE;

	if (atomic_compare_exchange_strong_explicit(&range->state, &state, RANGE_MENDING,
		memory_order_acq_rel, memory_order_acquire)) {
		if (!map_zeros(view))
			return false;
		/* R3: the owner who sees the flag finds zeros; its load of the flag is the other end. */
		atomic_store_explicit(view->flag, 1, memory_order_release);
		/* R2: the zeros are mapped; pairs with A2 below. */
		atomic_store_explicit(&range->state, RANGE_MENDED, memory_order_release);
		return true;
	}
	/* A2: repeats the access once the zeros are there; pairs with R2 above. */
	while (atomic_load_explicit(&range->state, memory_order_acquire) != RANGE_MENDED)
		;
	return atomic_fetch_add_explicit(&range->late_faults, 1, memory_order_relaxed) < LATE_FAULTS_MAX;
}

static bool contain(uintptr_t address)
{
	struct fault_view view;

	for (size_t i = 0; i < BASE_FAULT_RANGES; i++)
		if (view_range(&ranges[i], &view) && address - view.start < view.size_bytes)
			return mend(&ranges[i], &view);
	return false;
}

/* Whoever had the signal before gets it: the access is repeated under the old action, or, where somebody
 * sent the signal, it is sent once more. */
static void pass_on(const siginfo_t *info)
{
	sigaction(SIGBUS, &action_before, NULL);
	if (info->si_code <= 0)
		raise(SIGBUS);
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	int saved_errno = errno;

	(void)signal_number;
	(void)context;
	if (info->si_code <= 0 || !contain((uintptr_t)info->si_addr))
		pass_on(info);
	errno = saved_errno;
}

static int take_signal(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK}, current;

	if (sigaction(SIGBUS, NULL, &current) == 0 && current.sa_sigaction == on_sigbus)
		return 0;
	sigemptyset(&action.sa_mask);
	action_before = current;
	if (sigaction(SIGBUS, &action, NULL) != 0)
		return base_fail(errno, "cannot install a handler for SIGBUS (errno %d)", errno);
	return 0;
}

int base_fault_install(void)
{
	int result;

	pthread_mutex_lock(&writers);
	result = take_signal();
	pthread_mutex_unlock(&writers);
	return result;
}

static void write_range(struct fault_range *range, uintptr_t start, size_t size_bytes, _Atomic int *flag)
{
	uint32_t version = atomic_load_explicit(&range->version, memory_order_relaxed);

	atomic_store_explicit(&range->version, version + 1, memory_order_relaxed);
	/* W1: the odd version is seen before any new field; pairs with W2 in view_range. */
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&range->start, start, memory_order_relaxed);
	atomic_store_explicit(&range->size_bytes, size_bytes, memory_order_relaxed);
	atomic_store_explicit(&range->flag, flag, memory_order_relaxed);
	atomic_store_explicit(&range->state, RANGE_WHOLE, memory_order_relaxed);
	atomic_store_explicit(&range->late_faults, 0, memory_order_relaxed);
	/* R1: publishes the range; pairs with A1 in view_range. */
	atomic_store_explicit(&range->version, version + 2, memory_order_release);
}

static int take_slot(uintptr_t start, size_t size_bytes, _Atomic int *flag)
{
	for (int i = 0; i < BASE_FAULT_RANGES; i++) {
		if (atomic_load_explicit(&ranges[i].size_bytes, memory_order_relaxed) == 0) {
			write_range(&ranges[i], start, size_bytes, flag);
			return i;
		}
	}
	return -ENOSPC;
}

int base_fault_add(void *memory, size_t size_bytes, _Atomic int *flag)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	int handle;

	if ((uintptr_t)memory % page_bytes != 0 || size_bytes == 0)
		return base_fail(EINVAL, "a fault range must be a whole mapping, not %zu bytes at %p",
			size_bytes, memory);
	pthread_mutex_lock(&writers);
	handle = take_slot((uintptr_t)memory, size_bytes, flag);
	pthread_mutex_unlock(&writers);
	if (handle < 0)
		return base_fail(ENOSPC, "all %d fault ranges are taken: fewer clients or models",
			BASE_FAULT_RANGES);
	return handle;
}

void base_fault_remove(int handle)
{
	if (handle < 0 || handle >= BASE_FAULT_RANGES)
		return;
	pthread_mutex_lock(&writers);
	write_range(&ranges[handle], 0, 0, NULL);
	pthread_mutex_unlock(&writers);
}
