--- Records handed to Lua: to a function by batch:each(), or to the body of a loop over batch:records() that does what the function
--- does; beside a C loop that makes the same strings and calls the function. Sizes are those of a record, in bytes; answers are
--- nanoseconds per record.

local uv = require "luv"
local Batch = require "tidemark.batch"
local each = require "records_loop"

local RECORDS, TIMES = 1000, 20

local bytes, last = 0, 0
local function apply(record, seqno)
  bytes, last = bytes + #record, seqno
end

local function new_records(size)
  local records = {}
  for i = 1, RECORDS do
    records[i] = ("%08d"):format(i):rep(size // 8 + 1):sub(1, size)
  end
  return records
end

-- What `pass` takes per record, which must hand on all of them.
local function time(size, pass)
  bytes = 0
  local start = uv.hrtime()
  for _ = 1, TIMES do
    last = 0
    pass()
    assert(last == RECORDS, "not every record was handed on")
  end
  local spent = uv.hrtime() - start
  assert(bytes == TIMES * RECORDS * size, "not every byte was handed on")
  return spent / (TIMES * RECORDS)
end

local cases, batch, text = {}, nil, nil

local function need_batch(size)
  batch = batch or Batch.encode { shard = 0, epoch = 1, prev_epoch = 0, first_seqno = 1, log_id = 1, records = new_records(size) }
end

function cases.each(size)
  need_batch(size)
  return time(size, function()
    batch:each(apply)
  end)
end

function cases.records(size)
  need_batch(size)
  return time(size, function()
    for seqno, record in batch:records() do
      bytes, last = bytes + #record, seqno
    end
  end)
end

function cases.loop(size)
  text = text or table.concat(new_records(size))
  return time(size, function()
    each(text, size, apply)
  end)
end

io.stdout:setvbuf "line"
for line in io.lines() do
  local name, size = line:match "^(%l+) (%d+)$"
  print(("%.17g"):format(cases[name](math.tointeger(tonumber(size)))))
end
