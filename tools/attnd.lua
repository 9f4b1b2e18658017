-- What attnd says on the network, for Wireshark and tshark (3.4 and newer): packets, chunks, records. docs/PROTOCOL.md has the bytes.
--
--     wireshark -X lua_script:tools/attnd.lua
--     tshark -X lua_script:tools/attnd.lua -i lo -f 'port 7747' -O attnd
--
-- or for good: a link to it in ~/.local/lib/wireshark/plugins. Port 7747 is attnd's; elsewhere a HELLO is recognised, and the rest of its
-- conversation with it (else: Decode As). What is sealed stays so: a connection's keys are nowhere but in the memory of its two ends.

local attnd = Proto("attnd", "attnd network protocol")

-- ---- names ------------------------------------------------------------------------------------------------

local PORT = 7747
local MAGIC = "attndnet"
local TAG_BYTES, STREAM_BODY_MAX, DATAGRAM_HEAD, HELLO_DATAGRAM = 16, 16400, 24, 512
local PLAIN = 0
local UDP_PORTS = 3 -- Wireshark's PT_UDP

local HELLO, COOKIE, WELCOME, DATA, REFUSED = 1, 2, 3, 4, 5
local KINDS = { [HELLO] = "HELLO", [COOKIE] = "COOKIE", [WELCOME] = "WELCOME", [DATA] = "DATA", [REFUSED] = "REFUSED" }

local REQUEST, REQUEST_MORE, REPLY, REPLY_MORE, ACK, TAKEN, PING, PONG, CLOSE, HAVE = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local CHUNKS = {
	[REQUEST] = "REQUEST", [REQUEST_MORE] = "REQUEST_MORE", [REPLY] = "REPLY", [REPLY_MORE] = "REPLY_MORE", [ACK] = "ACK",
	[TAKEN] = "TAKEN", [PING] = "PING", [PONG] = "PONG", [CLOSE] = "CLOSE", [HAVE] = "HAVE",
}
local FLAG_NAMES = { [ACK] = "PROBE", [TAKEN] = "AGAIN", [HAVE] = "AGAIN" }

local CIPHERS = { [0] = "plain", [1] = "AESGCM", [2] = "ChaChaPoly" }
local WHY = {
	[0] = "bye", [1] = "version", [2] = "cipher", [3] = "key", [4] = "full", [5] = "draining", [6] = "the protocol was broken",
	[7] = "no such connection", [8] = "its token was used for a new one",
}

local OPEN, STEP, GENERATE, APPEND, ATTEND, CANCEL = 3, 4, 5, 6, 7, 13
local OPS = {
	[1] = "NOP", [2] = "DESCRIBE", [OPEN] = "OPEN", [STEP] = "STEP", [GENERATE] = "GENERATE", [APPEND] = "APPEND", [ATTEND] = "ATTEND",
	[8] = "TOKENIZE", [9] = "DETOKENIZE", [10] = "FORK", [11] = "TRUNCATE", [12] = "CLOSE", [CANCEL] = "CANCEL",
}
local CLASSES = { [0] = "latency", [1] = "interactive", [2] = "bulk" }
local STATUSES = {
	[0] = "OK", [1] = "REFUSED_DEADLINE", [2] = "EXPIRED", [3] = "CANCELLED", [4] = "CLIENT_GONE", [5] = "DRAINING", [16] = "BAD_RECORD",
	[17] = "BAD_OP", [18] = "BAD_RANGE", [19] = "BAD_PARAMS", [20] = "BAD_SHAPE", [21] = "BAD_TOKEN", [22] = "BAD_POSITION",
	[23] = "BAD_SESSION", [24] = "SESSION_LOST", [25] = "BAD_MODEL", [26] = "BAD_TEXT", [27] = "UNSUPPORTED", [28] = "DENIED",
	[32] = "NO_OUTPUT_ROOM", [33] = "CONTEXT_FULL", [34] = "NO_PAGES", [35] = "NO_SESSIONS", [36] = "OVER_QUOTA", [37] = "TOO_LARGE",
	[38] = "QUEUE_FULL", [48] = "DEVICE_FAILED",
}
local SESSION_KINDS = { [1] = "model", [2] = "attention" }
local KV = { [0] = "default", [1] = "f32", [2] = "bf16", [3] = "int8", [4] = "f16", [5] = "fp8", [6] = "int4" }
local OUTPUTS = { [0] = "none", [1] = "logits", [2] = "top", [3] = "argmax", [4] = "hidden", [5] = "sampled" }
local SELECTS = { [0] = "last", [1] = "all", [2] = "chosen" }
local DTYPES = { [0] = "f32", [1] = "f16", [2] = "bf16" }

-- ---- fields -----------------------------------------------------------------------------------------------

local fields = {}

local function field(make, name, text, ...)
	local made = make("attnd." .. name, text, ...)

	fields[#fields + 1] = made
	return made
end

local U8, U16, U32, U64, I64 = ProtoField.uint8, ProtoField.uint16, ProtoField.uint32, ProtoField.uint64, ProtoField.int64
local F32, BYTES, TEXT, FLAG = ProtoField.float, ProtoField.bytes, ProtoField.string, ProtoField.bool
local DEC, HEX = base.DEC, base.HEX

-- A struct: rows of name, text, type, offset, bytes, and what the type takes more. Flags lie within the field above them.
local function struct(prefix, bytes, rows)
	local made = { bytes = bytes }

	for i, row in ipairs(rows) do
		local name, text, make, offset, width = table.unpack(row, 1, 5)

		made[i] = { field = field(make, prefix .. "." .. name, text, table.unpack(row, 6)), offset = offset, width = width,
			is_flag = make == FLAG }
	end
	return made
end

local function number(name, text, make, offset, width)
	return { name, text, make, offset, width, DEC }
end

local function flag(name, text, offset, width, bit)
	return { name, text, FLAG, offset, width, width * 8, nil, bit }
end

local sampling = struct("sampling", 32, {
	number("seed", "Seed", U64, 0, 8),
	{ "temperature", "Temperature", F32, 8, 4 },
	{ "top_p", "Top p", F32, 12, 4 },
	{ "min_p", "Min p", F32, 16, 4 },
	{ "repeat_penalty", "Repeat penalty", F32, 20, 4 },
	number("top_k", "Top k", U32, 24, 4),
	number("repeat_window", "Repeat window", U32, 28, 4),
})

local request = struct("request", 64, {
	{ "op", "Operation", U8, 0, 1, DEC, OPS },
	{ "flags", "Flags", U8, 1, 1, HEX },
	flag("flags.check_position", "Check position", 1, 1, 1),
	flag("flags.rows", "Rows", 1, 1, 2),
	flag("flags.special", "Special", 1, 1, 4),
	flag("flags.parse_special", "Parse special", 1, 1, 8),
	flag("flags.chat", "Chat", 1, 1, 16),
	{ "class", "Class", U8, 2, 1, DEC, CLASSES },
	number("version", "Version", U8, 3, 1),
	number("lap", "Lap", U16, 4, 2),
	number("reserved", "Reserved", U16, 6, 2),
	number("id", "Request id", U64, 8, 8),
	{ "session", "Session", U64, 16, 8, HEX },
	number("deadline", "Deadline (ns)", I64, 24, 8),
	number("position", "Position", U32, 32, 4),
	number("argument", "Argument", U32, 36, 4),
	number("in_offset", "Input offset (64 bytes)", U32, 40, 4),
	number("in_bytes", "Input bytes", U32, 44, 4),
	number("out_offset", "Output offset (64 bytes)", U32, 48, 4),
	number("out_capacity", "Output capacity", U32, 52, 4),
	{ "args", "Args", U64, 56, 8, HEX },
})

local completion = struct("completion", 64, {
	number("id", "Request id", U64, 0, 8),
	{ "status", "Status", U8, 8, 1, DEC, STATUSES },
	{ "flags", "Flags", U8, 9, 1, HEX },
	flag("flags.final", "Final", 9, 1, 1),
	flag("flags.missed", "Missed", 9, 1, 2),
	number("lap", "Lap", U16, 10, 2),
	number("sequence", "Sequence", U32, 12, 4),
	number("result_bytes", "Result bytes", U32, 16, 4),
	number("position", "Position", U32, 20, 4),
	number("received", "Received (ns)", I64, 24, 8),
	number("admitted", "Admitted (ns)", I64, 32, 8),
	number("started", "Started (ns)", I64, 40, 8),
	number("done", "Done (ns)", I64, 48, 8),
	number("value", "Value", U64, 56, 8),
})

local step_args = struct("step", 8, {
	{ "output", "Output", U8, 0, 1, DEC, OUTPUTS },
	{ "select", "Select", U8, 1, 1, DEC, SELECTS },
	number("top_k", "Top k", U16, 2, 2),
	number("select_count", "Rows chosen", U32, 4, 4),
})

local open_params = struct("open", 56, {
	number("struct_bytes", "Struct bytes", U32, 0, 4),
	{ "kind", "Session kind", U32, 4, 4, DEC, SESSION_KINDS },
	number("model", "Model", U32, 8, 4),
	number("max_tokens", "Max tokens", U32, 12, 4),
	{ "kv_k", "Format of K", U8, 16, 1, DEC, KV },
	{ "kv_v", "Format of V", U8, 17, 1, DEC, KV },
	number("layers", "Layers", U32, 24, 4),
	number("heads", "Heads", U32, 28, 4),
	number("kv_heads", "Heads of K and V", U32, 32, 4),
	number("head_dim", "Head dimension", U32, 36, 4),
	number("window", "Window", U32, 40, 4),
	{ "scale", "Scale", F32, 44, 4 },
	{ "soft_cap", "Soft cap", F32, 48, 4 },
})

local generate_params = struct("generate", 32, {
	number("struct_bytes", "Struct bytes", U32, 0, 4),
	number("max_tokens", "Max tokens", U32, 4, 4),
	number("stop_count", "Stop ids", U32, 8, 4),
	number("between", "Deadline between tokens (ns)", I64, 16, 8),
})

local attend_params = struct("attend", 64, {
	number("struct_bytes", "Struct bytes", U32, 0, 4),
	number("layer", "Layer", U16, 4, 2),
	{ "dtype", "Type", U8, 6, 1, DEC, DTYPES },
	{ "flags", "Flags", U8, 7, 1, HEX },
	flag("flags.causal", "Causal", 7, 1, 1),
	flag("flags.lse", "Log-sum-exp", 7, 1, 2),
	number("q_rows", "Query rows", U32, 8, 4),
	number("kv_rows", "Key rows", U32, 12, 4),
	number("q_position", "Query position", U32, 16, 4),
	number("window", "Window", U32, 20, 4),
	{ "scale", "Scale", F32, 24, 4 },
	{ "soft_cap", "Soft cap", F32, 28, 4 },
})

local hello_clear = struct("hello", 64, {
	{ "magic", "Magic", TEXT, 0, 8 },
	number("version", "Version", U16, 8, 2),
	{ "cipher", "Cipher", U8, 10, 1, DEC, CIPHERS },
	{ "flags", "Flags", U8, 11, 1, HEX },
	{ "key", "Name of the key", BYTES, 16, 16 },
	{ "cookie", "Cookie", BYTES, 32, 32 },
})

local hello_part = struct("hello", 40, {
	{ "features", "Features", U64, 0, 8, HEX },
	{ "resume", "Token to resume with", BYTES, 8, 16 },
	number("replies", "Replies come", U32, 24, 4),
	number("datagram_bytes", "Datagram bytes", U32, 28, 4),
	number("clock", "Clock (ns)", I64, 32, 8),
})

local welcome_part = struct("welcome", 88, {
	{ "features", "Features", U64, 0, 8, HEX },
	{ "boot_id", "Boot id", U64, 8, 8, HEX },
	{ "token", "Token", BYTES, 16, 16 },
	number("now", "Daemon's clock (ns)", I64, 32, 8),
	number("clock", "Clock of HELLO (ns)", I64, 40, 8),
	number("max_in_flight", "Requests in flight", U32, 48, 4),
	number("stream_credits", "Stream credits", U32, 52, 4),
	number("window_bytes", "Window bytes", U32, 56, 4),
	number("message_bytes", "Message bytes", U32, 60, 4),
	number("requests", "Requests taken", U32, 64, 4),
	number("resume_ms", "Resume within (ms)", U32, 68, 4),
	number("datagram_bytes", "Datagram bytes", U32, 72, 4),
	{ "flags", "Flags", U32, 76, 4, HEX },
	flag("flags.resumed", "Resumed", 76, 4, 1),
	{ "connection", "Connection", U64, 80, 8, HEX },
})

local refused_body = struct("refused", 16, {
	{ "why", "Why", U32, 0, 4, DEC, WHY },
	{ "ciphers", "Ciphers", U32, 4, 4, HEX },
	flag("ciphers.plain", "Plain", 4, 4, 1),
	flag("ciphers.aesgcm", "AESGCM", 4, 4, 2),
	flag("ciphers.chacha", "ChaChaPoly", 4, 4, 4),
	number("version", "Version", U16, 8, 2),
})

local f = {
	length = field(ProtoField.uint24, "length", "Length", DEC),
	kind = field(U8, "kind", "Kind", DEC, KINDS),
	connection = field(U64, "connection", "Connection", HEX),
	number = field(U64, "number", "Packet", DEC),
	cookie = field(BYTES, "cookie", "Cookie"),
	e = field(BYTES, "e", "Ephemeral key"),
	sealed = field(BYTES, "sealed", "Sealed"),
	tag = field(BYTES, "tag", "Tag"),
	padding = field(BYTES, "padding", "Padding"),
	chunk_kind = field(U8, "chunk.kind", "Kind", DEC, CHUNKS),
	chunk_flags = field(U8, "chunk.flags", "Flags", HEX),
	probe = field(FLAG, "chunk.probe", "Probe", 8, nil, 1),
	again = field(FLAG, "chunk.again", "Again", 8, nil, 1),
	chunk_bytes = field(U16, "chunk.bytes", "Bytes", DEC),
	chunk_number = field(U32, "chunk.number", "Number", DEC),
	close_why = field(U32, "chunk.why", "Why", DEC, WHY),
	offset = field(U32, "part.offset", "Offset", DEC),
	total = field(U32, "part.total", "Length of the whole", DEC),
	payload = field(BYTES, "part.payload", "Payload"),
	credits = field(U32, "ack.credits", "Credits", DEC),
	first = field(U32, "have.first", "First unit missing", DEC),
	words = field(U32, "bitmap.words", "Words", DEC),
	word = field(U64, "bitmap.word", "Come", HEX),
	sender = field(I64, "time.sender", "Sender's clock (ns)", DEC),
	received = field(I64, "time.received", "Received (ns)", DEC),
	sent = field(I64, "time.sent", "Sent (ns)", DEC),
	request_in = field(ProtoField.framenum, "request_in", "Request in", base.NONE, frametype.REQUEST),
	op = field(U8, "completion.op", "Operation", DEC, OPS),
	took = field(F32, "took", "Time since the request (ms)"),
}

attnd.fields = fields

local wrong = ProtoExpert.new("attnd.wrong", "This breaks the protocol", expert.group.MALFORMED, expert.severity.ERROR)
local refused = ProtoExpert.new("attnd.refused.said", "The daemon refuses", expert.group.RESPONSE_CODE, expert.severity.NOTE)

attnd.experts = { wrong, refused }

local function complain(tree, what)
	tree:add_proto_expert_info(wrong, what)
end

-- Adds what of a struct lies within `tvb`.
local function add_struct(tree, layout, tvb)
	local above = tree

	for _, row in ipairs(layout) do
		if row.offset + row.width <= tvb:len() then
			local item = (row.is_flag and above or tree):add_le(row.field, tvb(row.offset, row.width))

			above = row.is_flag and above or item
		end
	end
end

-- ---- what is remembered of conversations ------------------------------------------------------------------

-- By the two ends: the cipher that each HELLO named, and the requests of each id, in the order of their frames. By connection: its ends.
local ciphers, requests, ends = {}, {}, {}

function attnd.init()
	ciphers, requests, ends = {}, {}, {}
end

local function ends_of(pinfo)
	local one, other = tostring(pinfo.src) .. " " .. pinfo.src_port, tostring(pinfo.dst) .. " " .. pinfo.dst_port

	return one < other and one .. " " .. other or other .. " " .. one
end

-- Entries come in the order of their frames on the first pass; later passes find what was true then.
local function remember(list, key, entry)
	list[key] = list[key] or {}
	list[key][#list[key] + 1] = entry
end

local function recall(list, key, frame)
	local found

	for _, entry in ipairs(list[key] or {}) do
		if entry.frame <= frame then
			found = entry
		end
	end
	return found
end

-- The conversation that a packet belongs to, which moves with its connection to other addresses.
local function conversation(pinfo, name)
	return name and ends[name] or ends_of(pinfo)
end

-- ---- chunks -----------------------------------------------------------------------------------------------

local function padded(bytes)
	return bytes + -bytes % 8
end

-- Whether a body that nothing is known of reads as chunks.
local function is_chunks(body)
	local at = 0

	while at < body:len() do
		if body:len() - at < 8 or not CHUNKS[body(at, 1):uint()] or body(at + 1, 1):uint() > 1 then
			return false
		end
		at = at + 8 + padded(body(at + 2, 2):le_uint())
	end
	return at == body:len()
end

local function add_input(tree, op, input)
	local layout = op == OPEN and open_params or op == GENERATE and generate_params or (op == APPEND or op == ATTEND) and attend_params
	local draws = op == OPEN and 56 or op == GENERATE and 32

	if not layout or input:len() < layout.bytes then
		return
	end
	local params = tree:add(attnd, input, OPS[op] .. " parameters")
	add_struct(params, layout, input)
	if draws and input:len() >= draws + sampling.bytes then
		add_struct(params, sampling, input(draws, sampling.bytes))
	end
end

local function add_request(tree, content, pinfo, talk, message)
	local record, id, op = content(0, 64), tostring(content(8, 8):le_uint64()), content(0, 1):uint()
	local key, last = talk .. " " .. id, nil

	local item = tree:add(attnd, record, "Request: " .. (OPS[op] or op))
	add_struct(item, request, record)
	if op == STEP then
		add_struct(item, step_args, record(56, 8))
	end
	if content:len() > 64 then
		add_input(item, op, content(64))
		tree:add(f.payload, content(64))
	end
	last = recall(requests, key, pinfo.number)
	if not pinfo.visited and not (last and last.message == message) then
		remember(requests, key, { frame = pinfo.number, at = pinfo.rel_ts, op = op, message = message })
	end
	return OPS[op] or ("op " .. op)
end

local function add_reply(tree, content, pinfo, talk)
	local record, status = content(0, 64), content(8, 1):uint()
	local item = tree:add(attnd, record, "Completion: " .. (STATUSES[status] or status))
	local asked = recall(requests, talk .. " " .. tostring(content(0, 8):le_uint64()), pinfo.number)

	add_struct(item, completion, record)
	if asked then
		item:add(f.op, asked.op):set_generated()
		item:add(f.request_in, asked.frame):set_generated()
		item:add(f.took, (pinfo.rel_ts - asked.at) * 1000):set_generated()
	end
	if content:len() > 64 then
		tree:add(f.payload, content(64))
	end
	return (asked and (OPS[asked.op] or asked.op) .. " " or "") .. (STATUSES[status] or ("status " .. status))
end

local function add_more(tree, content)
	tree:add_le(f.offset, content(0, 4))
	tree:add_le(f.total, content(4, 4))
	if content:len() > 8 then
		tree:add(f.payload, content(8))
	end
end

-- ACK, TAKEN and HAVE: a word of their own, and a bitmap.
local function add_bitmap(tree, content, what)
	local count = content(4, 4):le_uint()

	if what then
		tree:add_le(what, content(0, 4))
	end
	tree:add_le(f.words, content(4, 4))
	if content:len() ~= 8 + count * 8 then
		complain(tree, "the bitmap is longer or shorter than it says")
		return
	end
	for i = 0, count - 1 do
		tree:add_le(f.word, content(8 + i * 8, 8))
	end
end

local function add_times(tree, content, kind)
	tree:add_le(f.sender, content(0, 8))
	if kind == PONG then
		tree:add_le(f.received, content(8, 8))
		tree:add_le(f.sent, content(16, 8))
	end
end

local LEAST = { [REQUEST] = 64, [REQUEST_MORE] = 8, [REPLY] = 64, [REPLY_MORE] = 8, [ACK] = 8, [TAKEN] = 8, [PING] = 8, [PONG] = 24, [CLOSE] = 0,
	[HAVE] = 8 }

-- What a chunk of a known kind holds; returns a word about it.
local function add_content(tree, kind, content, pinfo, talk, message)
	if kind == REQUEST then
		return add_request(tree, content, pinfo, talk, message)
	elseif kind == REPLY then
		return add_reply(tree, content, pinfo, talk)
	elseif kind == REQUEST_MORE or kind == REPLY_MORE then
		add_more(tree, content)
	elseif kind == ACK or kind == TAKEN or kind == HAVE then
		add_bitmap(tree, content, kind == ACK and f.credits or kind == HAVE and f.first or nil)
	elseif kind == PING or kind == PONG then
		add_times(tree, content, kind)
	end
	return nil
end

-- One chunk at `at`. Returns where the next one begins, nil: there can be none; and a text.
local function add_chunk(tree, body, at, pinfo, talk)
	if body:len() - at < 8 then
		complain(tree, "the rest is too short for a chunk")
		return nil
	end
	local kind, flags, bytes = body(at, 1):uint(), body(at + 1, 1):uint(), body(at + 2, 2):le_uint()
	local message, whole = body(at + 4, 4):le_uint(), 8 + padded(bytes)
	local name = CHUNKS[kind] or ("chunk " .. kind)
	local item = tree:add(attnd, body(at, math.min(whole, body:len() - at)), name)

	item:add(f.chunk_kind, body(at, 1))
	local flag_item = item:add(f.chunk_flags, body(at + 1, 1))
	if FLAG_NAMES[kind] then
		flag_item:add(kind == ACK and f.probe or f.again, body(at + 1, 1))
	end
	item:add_le(f.chunk_bytes, body(at + 2, 2))
	item:add_le(kind == CLOSE and f.close_why or f.chunk_number, body(at + 4, 4))
	if whole > body:len() - at then
		complain(item, "the chunk is longer than its packet")
		return nil, name
	end
	if not CHUNKS[kind] or bytes < LEAST[kind] or flags > (FLAG_NAMES[kind] and 1 or 0) then
		complain(item, "no such chunk")
		return at + whole, name
	end

	local word = bytes > 0 and add_content(item, kind, body(at + 8, bytes), pinfo, talk, message)
	if whole > 8 + bytes then
		item:add(f.padding, body(at + 8 + bytes, whole - 8 - bytes))
	end
	local text = name .. (kind == CLOSE and " (" .. (WHY[message] or message) .. ")" or (kind ~= PING and kind ~= PONG) and " " .. message or "")
	text = text .. (flags == 1 and " " .. FLAG_NAMES[kind] or "") .. (word and " " .. word or "")
	item:set_text(text)
	return at + whole, text
end

local function add_chunks(tree, body, pinfo, talk)
	local at, texts = 0, {}

	while at and at < body:len() do
		at, texts[#texts + 1] = add_chunk(tree, body, at, pinfo, talk)
	end
	return table.concat(texts, ", ")
end

-- ---- bodies -----------------------------------------------------------------------------------------------

-- A part that is sealed where there is a cipher. Returns the bytes that it takes.
local function add_part(tree, layout, text, body, cipher)
	local bytes = layout.bytes + (cipher ~= PLAIN and 32 + TAG_BYTES or 0)

	if body:len() < bytes then
		complain(tree, text .. " is cut off")
		return body:len()
	end
	if cipher == PLAIN then
		add_struct(tree:add(attnd, body(0, bytes), text), layout, body)
	else
		tree:add(f.e, body(0, 32))
		tree:add(f.sealed, body(32, layout.bytes))
		tree:add(f.tag, body(32 + layout.bytes, TAG_BYTES))
	end
	return bytes
end

local function add_hello(tree, body, pinfo, talk)
	if body:len() < hello_clear.bytes then
		complain(tree, "HELLO is cut off")
		return nil
	end
	local cipher = body(10, 1):uint()
	add_struct(tree, hello_clear, body)
	if not pinfo.visited then
		remember(ciphers, talk, { frame = pinfo.number, cipher = cipher })
	end
	local taken = hello_clear.bytes
	taken = taken + add_part(tree, hello_part, "HELLO", body(taken), cipher)
	if taken < body:len() then
		tree:add(f.padding, body(taken))
	end
	return CIPHERS[cipher] or ("cipher " .. cipher)
end

local function add_refused(tree, body)
	if body:len() < refused_body.bytes then
		complain(tree, "REFUSED is cut off")
		return nil
	end
	add_struct(tree, refused_body, body)
	tree:add_proto_expert_info(refused)
	return WHY[body(0, 4):le_uint()] or "for an unknown reason"
end

-- DATA, sealed or not: HELLO has said so, or it reads as chunks.
local function add_data(tree, body, pinfo, talk)
	local known = recall(ciphers, talk, pinfo.number)
	local plain = is_chunks(body)

	if known then
		plain = known.cipher == PLAIN
	end
	if plain then
		return add_chunks(tree, body, pinfo, talk)
	end
	if body:len() < TAG_BYTES then
		complain(tree, "shorter than a tag")
		return nil
	end
	tree:add(f.sealed, body(0, body:len() - TAG_BYTES))
	tree:add(f.tag, body(body:len() - TAG_BYTES))
	return "sealed"
end

local function add_body(tree, kind, body, pinfo, talk)
	local cipher = recall(ciphers, talk, pinfo.number)

	if kind == HELLO then
		return add_hello(tree, body, pinfo, talk)
	elseif kind == COOKIE then
		tree:add(f.cookie, body())
	elseif kind == WELCOME then
		local plain = body:len() == welcome_part.bytes

		add_part(tree, welcome_part, "WELCOME", body, (cipher and cipher.cipher) or (plain and PLAIN or 1))
	elseif kind == DATA then
		return add_data(tree, body, pinfo, talk)
	elseif kind == REFUSED then
		return add_refused(tree, body)
	end
	return nil
end

-- ---- packets ----------------------------------------------------------------------------------------------

-- Columns: all packets of a frame, one after the other.
local function tell(pinfo, tree, kind, word)
	local text = KINDS[kind] .. (word and word ~= "" and ": " .. word or "")

	if tostring(pinfo.cols.protocol) ~= "attnd" then
		pinfo.cols.protocol = "attnd"
		pinfo.cols.info = text
	else
		pinfo.cols.info:append("; " .. text)
	end
	tree:append_text(", " .. text)
end

local function stream_bytes(tvb, _, offset)
	return 4 + tvb(offset, 3):le_uint()
end

local function stream_packet(tvb, pinfo, root)
	local tree, kind = root:add(attnd, tvb()), tvb(3, 1):uint()

	tree:add_le(f.length, tvb(0, 3))
	tree:add(f.kind, tvb(3, 1))
	if not KINDS[kind] or tvb:len() - 4 > STREAM_BODY_MAX then
		complain(tree, "no packet")
	elseif tvb:len() > 4 then
		tell(pinfo, tree, kind, add_body(tree, kind, tvb(4):tvb(), pinfo, conversation(pinfo)))
	else
		tell(pinfo, tree, kind)
	end
	return tvb:len()
end

local function stream(tvb, pinfo, tree)
	pinfo.cols.protocol = "TCP" -- until the first packet of the frame is told
	dissect_tcp_pdus(tvb, tree, 4, stream_bytes, stream_packet)
	return tvb:len()
end

local function datagram(tvb, pinfo, root)
	local kind = tvb:len() >= DATAGRAM_HEAD and tvb(0, 1):uint() or 0

	if not KINDS[kind] then
		return 0
	end
	local tree, name = root:add(attnd, tvb()), tostring(tvb(8, 8):le_uint64())
	tree:add(f.kind, tvb(0, 1))
	tree:add_le(f.connection, tvb(8, 8))
	tree:add_le(f.number, tvb(16, 8))
	if kind == WELCOME and not pinfo.visited then
		ends[name] = ends_of(pinfo)
	end
	pinfo.cols.protocol = "UDP"
	tell(pinfo, tree, kind,
		tvb:len() > DATAGRAM_HEAD and
			add_body(tree, kind, tvb(DATAGRAM_HEAD):tvb(), pinfo, conversation(pinfo, kind == DATA and name or nil)))
	return tvb:len()
end

function attnd.dissector(tvb, pinfo, tree)
	if pinfo.port_type == UDP_PORTS then
		return datagram(tvb, pinfo, tree)
	end
	return stream(tvb, pinfo, tree)
end

-- ---- where it is found ------------------------------------------------------------------------------------

local function has_magic(tvb, at)
	return tvb:len() >= at + #MAGIC and tvb(at, #MAGIC):raw() == MAGIC
end

local function is_stream(tvb, pinfo, tree)
	if not has_magic(tvb, 4) or tvb(3, 1):uint() ~= HELLO then
		return false
	end
	pinfo.conversation = attnd
	stream(tvb, pinfo, tree)
	return true
end

local function is_datagram(tvb, pinfo, tree)
	if tvb:len() ~= HELLO_DATAGRAM or not has_magic(tvb, DATAGRAM_HEAD) or tvb(0, 1):uint() ~= HELLO then
		return false
	end
	pinfo.conversation = attnd
	datagram(tvb, pinfo, tree)
	return true
end

attnd:register_heuristic("tcp", is_stream)
attnd:register_heuristic("udp", is_datagram)
DissectorTable.get("tcp.port"):add(PORT, attnd)
DissectorTable.get("udp.port"):add(PORT, attnd)
