/*
 * What every front asks of a record before anybody else sees it.
 */
#ifndef SVC_RECORD_H
#define SVC_RECORD_H

#include <stdbool.h>

#include "attnd/record.h"

/* What is wrong with a record by itself: ATTND_BAD_RECORD, ATTND_BAD_OP, or ATTND_OK. */
static inline enum attnd_status svc_record_check(const struct attnd_request *record)
{
	if (record->version != ATTND_VERSION || record->reserved || record->flags & ~ATTND_REQ_ALL ||
		record->priority_class >= ATTND_CLASS_END)
		return ATTND_BAD_RECORD;
	return record->op == 0 || record->op >= ATTND_OP_END ? ATTND_BAD_OP : ATTND_OK;
}

/* Whether the text role answers it, and no device. */
static inline bool svc_record_is_text(const struct attnd_request *record)
{
	return record->op == ATTND_OP_TOKENIZE || record->op == ATTND_OP_DETOKENIZE;
}

#endif
