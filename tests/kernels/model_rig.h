/*
 * What the tests of whole models share: attnquant as a child process, a loaded model on the CPU backend, one session of
 * it, and the logits of its rows. Every failure ends the test with a message.
 */
#ifndef MODEL_RIG_H
#define MODEL_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

enum { MODEL_RIG_ROWS = 64, MODEL_RIG_TOKENS = 1024 };

struct model_rig {
	struct kern_backend *backend;
	struct model *model;
	struct kern_kv_geometry kv;
	unsigned char *blocks[MODEL_RIG_TOKENS / KERN_PAGE_TOKENS + KERN_KV_AHEAD];
	uint32_t position, vocab;
};

/* A file of the optional test data, or NULL when it is not there. The result is overwritten by the next call. */
const char *model_rig_data(const char *name);
/* Runs attnquant of this build with up to ten arguments, ending in NULL; its output goes to standard error. Returns its
 * exit status. */
int model_rig_attnquant(const char *argument, ...) __attribute__((sentinel));
/* A new temporary folder, removed with all its files at the end of the program. */
const char *model_rig_folder(void);
/* "folder/name"; the result is overwritten by the eighth next call. */
const char *model_rig_path(const char *name);

void model_rig_open(struct model_rig *rig, const char *path, enum kern_kv format, uint32_t workers);
void model_rig_close(struct model_rig *rig);
/* A new session: position 0. */
void model_rig_restart(struct model_rig *rig);
/* Appends tokens (at most MODEL_RIG_ROWS); logits: [count][vocab], or with last_only [1][vocab]. */
void model_rig_step(struct model_rig *rig, const uint32_t *tokens, uint32_t count, bool last_only, float *logits);

#endif
