/*
 * Token ids into text, while the model goes on. See attnrun_stream.h.
 */
#include "tools/attnrun_stream.h"

#include <errno.h>
#include <string.h>

int attnrun_stream_open(struct attnrun_stream *stream, struct attnd_client *client, uint32_t model,
	uint32_t last_id, FILE *out)
{
	*stream = (struct attnrun_stream){
		.client = client, .model = model, .request_id = 2, .out = out
	};
	stream->loan_ids = attnd_loan(
		client, sizeof(uint32_t) * (ATTNRUN_STREAM_CONTEXT + ATTNRUN_STREAM_BATCH));
	stream->loan_text = attnd_loan(client, ATTNRUN_STREAM_TEXT_BYTES);
	if (!stream->loan_ids || !stream->loan_text)
		return -ENOMEM;
	stream->loan_ids[0] = last_id;
	stream->context = 1;
	int64_t skip = attnd_detokenize(client, model, &last_id, 1, 0, NULL, 0);

	if (skip < 0)
		return (int)skip;
	stream->skip_bytes = (size_t)skip;
	return 0;
}

/* True while the context has no text, so that the next id still belongs to it. */
static bool settling(const struct attnrun_stream *stream)
{
	return stream->skip_bytes == 0 && stream->context < ATTNRUN_STREAM_CONTEXT;
}

int attnrun_stream_ask(struct attnrun_stream *stream)
{
	uint32_t fresh = stream->count - stream->asked;
	uint32_t most = settling(stream) ? 1 : ATTNRUN_STREAM_BATCH;

	if (stream->busy || fresh == 0)
		return 0;
	fresh = fresh < most ? fresh : most;
	memcpy(stream->loan_ids + stream->context, stream->ids + stream->asked,
		fresh * sizeof(uint32_t));

	struct attnd_request request = {
		.op = ATTND_OP_DETOKENIZE,
		.request_id = stream->request_id,
		.argument = stream->model,
		.in_offset = attnd_offset(stream->client, stream->loan_ids),
		.in_bytes = (stream->context + fresh) * (uint32_t)sizeof(uint32_t),
		.out_offset = attnd_offset(stream->client, stream->loan_text),
		.out_capacity = ATTNRUN_STREAM_TEXT_BYTES,
	};
	int taken = attnd_submit(stream->client, &request, 1);

	if (taken == -EAGAIN)
		return 0;
	if (taken < 0)
		return taken;
	stream->asked += fresh;
	stream->busy = true;
	return 0;
}

size_t attnrun_stream_whole(const char *text, size_t bytes)
{
	for (size_t back = 1; back <= 3 && back <= bytes; back++) {
		unsigned char byte = (unsigned char)text[bytes - back];

		if ((byte & 0xc0) == 0x80)
			continue;
		size_t needed = byte >= 0xf0 && byte < 0xf8 ? 4 :
			byte >= 0xe0                        ? 3 :
			byte >= 0xc2                        ? 2 :
							      1;

		if (byte >= 0xf8)
			needed = 1;
		return needed > back ? bytes - back : bytes;
	}
	return bytes;
}

/* The held bytes and the new ones are one text. */
static void show(struct attnrun_stream *stream, const char *text, size_t bytes)
{
	while (stream->held_bytes > 0 && bytes > 0) {
		stream->held[stream->held_bytes++] = *text++;
		bytes--;
		if (attnrun_stream_whole(stream->held, stream->held_bytes) == stream->held_bytes) {
			fwrite(stream->held, 1, stream->held_bytes, stream->out);
			stream->held_bytes = 0;
		}
	}
	size_t whole = attnrun_stream_whole(text, bytes);

	fwrite(text, 1, whole, stream->out);
	if (whole < bytes) {
		memcpy(stream->held, text + whole, bytes - whole);
		stream->held_bytes = bytes - whole;
	}
	fflush(stream->out);
}

int attnrun_stream_take(struct attnrun_stream *stream, const struct attnd_completion *completion)
{
	stream->busy = false;
	if (completion->status != ATTND_OK)
		return -EIO;
	if (completion->result_bytes > stream->skip_bytes)
		show(stream, stream->loan_text + stream->skip_bytes,
			completion->result_bytes - stream->skip_bytes);
	/* The id that was asked for stands behind the context already. */
	if (settling(stream)) {
		stream->context++;
		stream->skip_bytes = completion->result_bytes;
	}
	return 0;
}

bool attnrun_stream_done(const struct attnrun_stream *stream)
{
	return !stream->busy && stream->asked == stream->count;
}

void attnrun_stream_close(struct attnrun_stream *stream)
{
	fwrite(stream->held, 1, stream->held_bytes, stream->out);
	fflush(stream->out);
	attnd_return(stream->client, stream->loan_ids);
	attnd_return(stream->client, stream->loan_text);
}
