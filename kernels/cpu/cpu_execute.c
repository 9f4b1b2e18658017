/*
 * The executor: tickets, the claiming of tiles, and the workers. See cpu_backend.h for how it works.
 *
 * submit and poll run on the owner's thread; the workers run worker_main. No allocation, no lock, and no system call but
 * the futex that wakes and holds sleeping workers.
 *
 * Ordering edges:
 *   R1 publish -> A1 claim: a claimed tile sees the planned stage. Claims by others lie between the two in the
 *      modification order of a share's `tiles`; being read-modify-writes, they continue R1's release sequence.
 *   R2 tile_finished -> A2 tile_finished: whoever finishes the last tile sees the results of all.
 *   R3 ticket_finish -> A3 cpu_poll: the owner sees results and status of a finished ticket.
 *   R4 cpu_submit -> A4 ticket_finish: a holder that goes on with the next ticket sees its slot; the other way
 *      round, an owner that finds nothing pending sees the advancing state as the last holder left it.
 *   S1 publish / S2 worker_sleep: count the generation, then read sleepers; count in sleepers, then read the generation.
 *      All four are sequentially consistent, so that at least one side sees the other and no wake-up is lost.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base_clock.h"
#include "base/base_error.h"
#include "base/base_log.h"
#include "kernels/cpu/cpu_backend.h"

/* A worker looks at the clock once in so many fruitless looks for a new stage. */
enum { SPINS_PER_CLOCK = 64 };

static inline void spin_pause(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	sched_yield();
#endif
}

/* ---- sleeping and waking -------------------------------------------------------------------------------------- */

static void wake_all(struct kern_cpu *cpu)
{
	(void)syscall(SYS_futex, (uint32_t *)&cpu->generation, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* generation: the last one that the worker has found without tiles to claim. */
static void worker_sleep(struct kern_cpu *cpu, uint32_t generation)
{
	/* S2, first half; pairs with publish and cpu_workers_stop. */
	atomic_fetch_add_explicit(&cpu->sleepers, 1, memory_order_seq_cst);
	/* S2, second half. A stage published from here on changes the generation, and the futex does not wait. */
	if (atomic_load_explicit(&cpu->generation, memory_order_seq_cst) == generation &&
		!atomic_load_explicit(&cpu->stopping, memory_order_seq_cst))
		(void)syscall(SYS_futex, (uint32_t *)&cpu->generation, FUTEX_WAIT_PRIVATE, generation, NULL, NULL, 0);
	atomic_fetch_sub_explicit(&cpu->sleepers, 1, memory_order_relaxed);
}

/* ---- tiles -------------------------------------------------------------------------------------------------------- */

static void publish(struct kern_cpu *cpu)
{
	const uint32_t tiles = cpu->stage.tiles;

	atomic_store_explicit(&cpu->unfinished, tiles, memory_order_relaxed);
	for (uint32_t s = 0; s < cpu->share_count; s++) {
		const uint64_t first = cpu_share_first(tiles, s, cpu->share_count);
		const uint64_t end = cpu_share_first(tiles, s + 1, cpu->share_count);

		/* R1: publishes stage and unfinished; pairs with A1 in claim. Nobody else writes where no tile is left. */
		if (first < end)
			atomic_store_explicit(&cpu->shares[s].tiles, end << 32 | first, memory_order_release);
	}
	/* S1, first half; pairs with S2 in worker_sleep. Who sees it, sees the shares. */
	atomic_fetch_add_explicit(&cpu->generation, 1, memory_order_seq_cst);
	/* S1, second half. */
	if (atomic_load_explicit(&cpu->sleepers, memory_order_seq_cst) != 0)
		wake_all(cpu);
}

/* A stage with an unclaimed tile cannot end, so what a successful claim reads of the stage stays as it is. */
static bool claim_of(struct cpu_share *share, bool own, struct cpu_participant *self, uint32_t *tile)
{
	uint64_t seen = atomic_load_explicit(&share->tiles, memory_order_relaxed);

	while ((uint32_t)seen != (uint32_t)(seen >> 32)) {
		const uint64_t left = own ? seen + 1 : seen - ((uint64_t)1 << 32);

		/* A1: sees the stage; pairs with R1 in publish. */
		if (atomic_compare_exchange_weak_explicit(&share->tiles, &seen, left, memory_order_acquire,
				memory_order_relaxed)) {
			*tile = own ? (uint32_t)seen : (uint32_t)(left >> 32);
			self->next_tile = (uint32_t)left == (uint32_t)(left >> 32) ? CPU_NO_TILE : own ? *tile + 1 : *tile - 1;
			return true;
		}
	}
	return false;
}

static bool claim(struct kern_cpu *cpu, struct cpu_participant *self, uint32_t *tile)
{
	for (uint32_t i = 0, share = self->share; i < cpu->share_count; i++) {
		if (claim_of(&cpu->shares[share], i == 0, self, tile))
			return true;
		share = share + 1 < cpu->share_count ? share + 1 : 0;
	}
	return false;
}

/* Asks for a little more of the weights that come next. False: enough of them are on their way. */
static bool read_ahead(const struct kern_cpu *cpu, struct cpu_participant *self)
{
	enum { LINES = 8 };

	cpu_share_want(cpu, self);
	if (!cpu_ahead_left(&self->ahead))
		return false;
	cpu_ahead_ask(&self->ahead, LINES);
	return true;
}

/* ---- the right to advance ----------------------------------------------------------------------------------------- */

/* Ends the ticket at hand and takes up the next. False: none is left, and the right to advance is gone with it. */
static bool ticket_next(struct kern_cpu *cpu)
{
	if (cpu->active) {
		const uint64_t ticket = atomic_load_explicit(&cpu->done, memory_order_relaxed) + 1;
		const int failure = atomic_load_explicit(&cpu->failure, memory_order_relaxed);

		cpu->slots[ticket % CPU_TICKETS].status = failure != 0 ? failure : 1;
		cpu->active = false;
		/* The last look for a stage may have left one without tiles; the next holder finds all of it done. */
		cpu->stage.tiles = cpu->next_tile = 0;
		/* R3: publishes results and status; pairs with A3 in cpu_poll. */
		atomic_store_explicit(&cpu->done, ticket, memory_order_release);
		/* A4 and R4: pair with each other's counterparts in cpu_submit. */
		if (atomic_fetch_sub_explicit(&cpu->pending, 1, memory_order_acq_rel) == 1)
			return false;
	}
	atomic_store_explicit(&cpu->failure, 0, memory_order_relaxed);
	cpu->active = true;
	cpu_stage_begin(cpu);
	return true;
}

static bool stage_next(struct kern_cpu *cpu)
{
	while (!cpu->active || !cpu_stage_next(cpu))
		if (!ticket_next(cpu))
			return false;
	cpu->next_tile = 0;
	return true;
}

static bool worth_sharing(const struct kern_cpu *cpu)
{
	return cpu->worker_count > 0 && cpu->stage.tiles > 1 &&
		(uint64_t)cpu->stage.tiles * cpu->stage.tile_ns >= CPU_SHARE_NS;
}

/* The caller holds the right to advance. On return it has passed it on: to the finisher of a published stage, to
 * submit, or, where its budget has run out, to the owner's next poll (only the owner's does). */
static void advance(struct kern_cpu *cpu, struct cpu_participant *self)
{
	for (;;) {
		if (cpu->next_tile == cpu->stage.tiles) {
			if (!stage_next(cpu))
				return;
			if (worth_sharing(cpu)) {
				cpu->next_tile = cpu->stage.tiles;
				cpu_stage_ahead(cpu);
				publish(cpu);
				return;
			}
		}
		self->next_tile = cpu->next_tile + 1 < cpu->stage.tiles ? cpu->next_tile + 1 : CPU_NO_TILE;
		cpu->stage.run(cpu, cpu->next_tile++, self);
		self->budget_ns -= cpu->stage.tile_ns;
		if (self->budget_ns <= 0) {
			cpu->held = true;
			return;
		}
	}
}

static void run_claimed(struct kern_cpu *cpu, struct cpu_participant *self, uint32_t tile)
{
	cpu->stage.run(cpu, tile, self);
	self->budget_ns -= cpu->stage.tile_ns;
	/* R2 and A2: pair with each other, from every tile's finisher to the last one. */
	if (atomic_fetch_sub_explicit(&cpu->unfinished, 1, memory_order_acq_rel) == 1)
		advance(cpu, self);
}

/* ---- the owner ---------------------------------------------------------------------------------------------------- */

int cpu_submit(struct kern_backend *backend, const struct kern_work *work, kern_ticket *ticket)
{
	struct kern_cpu *cpu = cpu_of(backend);
	int err;

	if (cpu->submitted - cpu->collected >= CPU_TICKETS)
		return -EAGAIN;
	err = cpu_work_check(work);
	if (err != 0)
		return err;
	*ticket = ++cpu->submitted;
	cpu->slots[*ticket % CPU_TICKETS].work = *work;
	/* R4: publishes the slot; pairs with A4 in ticket_next. A4: where nothing was pending, sees the state that the last
	 * holder left; pairs with R4 there. */
	if (atomic_fetch_add_explicit(&cpu->pending, 1, memory_order_acq_rel) == 0)
		cpu->held = true;
	return 0;
}

int cpu_poll(struct kern_backend *backend, kern_ticket ticket)
{
	struct kern_cpu *cpu = cpu_of(backend);
	struct cpu_participant *self = &cpu->participants[0];
	uint32_t tile;

	if (ticket == 0 || ticket > cpu->submitted || ticket + CPU_TICKETS <= cpu->submitted)
		return -EINVAL;
	self->budget_ns = CPU_SLICE_NS;
	/* A3: sees results and status; pairs with R3 in ticket_next. */
	while (atomic_load_explicit(&cpu->done, memory_order_acquire) < ticket) {
		if (self->budget_ns <= 0)
			return 0;
		if (cpu->held) {
			cpu->held = false;
			advance(cpu, self);
		} else if (claim(cpu, self, &tile)) {
			run_claimed(cpu, self, tile);
		} else {
			(void)read_ahead(cpu, self);
			return 0;
		}
	}
	if (cpu->collected < ticket)
		cpu->collected = ticket;
	return cpu->slots[ticket % CPU_TICKETS].status;
}

/* ---- the workers -------------------------------------------------------------------------------------------------- */

/* Waits for the next stage: reading ahead, spinning, asleep. generation: the last one without tiles to claim. */
static void worker_wait(struct kern_cpu *cpu, struct cpu_participant *self, struct base_clock *clock, uint32_t generation)
{
	int64_t idle_since_ns = 0;

	for (uint32_t looks = 0;; looks++) {
		if (atomic_load_explicit(&cpu->generation, memory_order_relaxed) != generation ||
			atomic_load_explicit(&cpu->stopping, memory_order_relaxed))
			return;
		if (!read_ahead(cpu, self))
			spin_pause();
		if (looks == 0)
			idle_since_ns = base_clock_now(clock);
		else if (looks % SPINS_PER_CLOCK == 0 && base_clock_now(clock) - idle_since_ns >= (int64_t)cpu->spin_ns)
			break;
	}
	worker_sleep(cpu, generation);
}

static void *worker_main(void *argument)
{
	struct cpu_participant *self = argument;
	struct kern_cpu *cpu = self->cpu;
	struct base_clock clock;
	uint32_t tile;

	base_clock_init(&clock);
	self->budget_ns = INT64_MAX;
	while (!atomic_load_explicit(&cpu->stopping, memory_order_relaxed)) {
		/* Acquire: the tiles of this generation are seen; pairs with S1 in publish. */
		const uint32_t generation = atomic_load_explicit(&cpu->generation, memory_order_acquire);

		while (claim(cpu, self, &tile)) {
			run_claimed(cpu, self, tile);
			self->budget_ns = INT64_MAX;
		}
		worker_wait(cpu, self, &clock, generation);
	}
	return NULL;
}

static int worker_start(struct kern_cpu *cpu, struct cpu_participant *worker, const struct kern_cpu_options *options,
	uint32_t index)
{
	char name[16];
	int err = pthread_create(&worker->thread, NULL, worker_main, worker);

	if (err != 0)
		return base_fail(err, "cannot start compute worker %u of %u", index, cpu->worker_count);
	cpu->workers_started++;
	snprintf(name, sizeof(name), "attnd-cpu%u", index % 1000);
	(void)pthread_setname_np(worker->thread, name);

	if (options->worker_pus) {
		const uint32_t pu = options->worker_pus[index];
		cpu_set_t *set = CPU_ALLOC(pu + 1);

		if (!set)
			return base_fail(ENOMEM, "no memory to bind worker %u", index);
		CPU_ZERO_S(CPU_ALLOC_SIZE(pu + 1), set);
		CPU_SET_S(pu, CPU_ALLOC_SIZE(pu + 1), set);
		err = pthread_setaffinity_np(worker->thread, CPU_ALLOC_SIZE(pu + 1), set);
		CPU_FREE(set);
		if (err != 0)
			return base_fail(err, "cannot bind compute worker %u to processor %u", index, pu);
	}
	if (options->fixed_priority) {
		const struct sched_param priority = {.sched_priority = 10};

		err = pthread_setschedparam(worker->thread, SCHED_FIFO, &priority);
		if (err != 0)
			base_log(BASE_LOG_WARN, "kernels", "priority_refused",
				"worker=%u errno=%d effect=ordinary_scheduling", index, err);
	}
	return 0;
}

int cpu_workers_start(struct kern_cpu *cpu, const struct kern_cpu_options *options)
{
	sigset_t all, before;
	int err = 0;

	/* Signals belong to the threads of the daemon that handle them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (uint32_t i = 0; i < cpu->worker_count && err == 0; i++)
		err = worker_start(cpu, &cpu->participants[1 + i], options, i);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

void cpu_workers_stop(struct kern_cpu *cpu)
{
	/* S1 of the stop: the store and the new generation come before the wake; pairs with S2 in worker_sleep. */
	atomic_store_explicit(&cpu->stopping, true, memory_order_seq_cst);
	atomic_fetch_add_explicit(&cpu->generation, 1, memory_order_seq_cst);
	wake_all(cpu);
	for (uint32_t i = 0; i < cpu->workers_started; i++)
		pthread_join(cpu->participants[1 + i].thread, NULL);
	cpu->workers_started = 0;
}
