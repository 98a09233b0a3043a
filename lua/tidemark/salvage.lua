--- Makes a sound log from a damaged one: `tidemark salvage`. The damaged log is only read. What is missing in it is taken from other logs
--- where it is proved that it had the same records there. If nothing is missing then, the new log has the id, the seqnos and the epochs of
--- the old one. Otherwise it is a new log with all that is whole, renumbered, and a file `salvaged` (docs/formats.md).
---
--- The new log is made in a directory beside its place and renamed at the end, so that one that is not finished never has its name.
--- Files are read and written through the functions that it is given.

local Batch = require "tidemark.batch"
local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local plan = require "tidemark.salvage.plan"
local scan = require "tidemark.salvage.scan"
local survey = require "tidemark.salvage.survey"

local SEGMENT_BYTES = 67108864
local ASIDE = ".salvaging" -- after the name of the new log, while it is made

local salvage = {}
local fail = scan.fail

---@class tidemark.SalvageFiles what fails returns nil and a message
---@field list fun(directory: string): string[]?, string? names
---@field open fun(path: string): any, string? to read
---@field size fun(file: any): integer?, string?
---@field read fun(file: any, size: integer, offset: integer): string?, string?, string? also the name of the errno
---@field create fun(path: string): any, string? a new file to write
---@field write fun(file: any, bytes: string): true?, string? all of them, at the end
---@field sync fun(file: any): true?, string?
---@field close fun(file: any)
---@field sync_directory fun(path: string): true?, string?
---@field make_directory fun(path: string): true?, string?
---@field rename fun(from: string, to: string): true?, string?
---@field remove fun(path: string): true?, string? a file
---@field remove_directory fun(path: string): true?, string?
---@field real fun(path: string): string? absolute and without links; nil if there is nothing
---@field fingerprint fun(path: string): string? differs after a change; nil if there is no such file

local function must(result, message)
  if not result then
    fail("IO", "%s", message)
  end
  return result
end

-- ---- deciding ----

local function is_overlapped(shard_plan)
  local last = shard_plan.begins - 1
  for _, piece in ipairs(shard_plan.pieces) do
    if piece.first <= last then
      return true
    end
    last = piece.last
  end
  return false
end

-- Adds the shards of which the target shows nothing, where its heads do not say which shards it has: those that the other logs have, and
-- the first `count`.
local function add_shards(target, others, count)
  local function add(shard, is_known)
    local entry = target.shards[shard] or { segments = {}, runs = {}, damage = {}, is_guessed = true }
    entry.is_known = entry.is_known or is_known
    target.shards[shard] = entry
  end
  for _, other in ipairs(others) do
    for shard in pairs(other.shards) do
      add(shard, other.marks ~= nil)
    end
  end
  for shard = 0, count - 1 do
    add(shard, true)
  end
end

local function make_plan(target, others, count)
  local decided = { shards = {}, notes = {}, ids = {}, missing = {}, filled = {}, records = 0 }
  if not target.marks then -- heads that can be read know all shards
    add_shards(target, others, count)
  end
  for shard, entry in pairs(target.shards) do
    local shard_plan = plan.shard(target, shard, others, decided.notes)
    if shard_plan.pieces[1] or entry.is_known or not entry.is_guessed then
      decided.ids[#decided.ids + 1], decided.shards[shard] = shard, shard_plan
    end
  end
  table.sort(decided.ids)
  for _, shard in ipairs(decided.ids) do
    local shard_plan = decided.shards[shard]
    assert(not is_overlapped(shard_plan))
    for _, range in ipairs(shard_plan.missing) do
      decided.missing[#decided.missing + 1] = { shard = shard, first = range[1], last = range[2] }
    end
    for _, piece in ipairs(shard_plan.pieces) do
      local before = decided.filled[#decided.filled]
      decided.records = decided.records + piece.last - piece.first + 1
      if piece.from and before and before.shard == shard and before.from == piece.from and before.last + 1 == piece.first then
        before.last = piece.last
      elseif piece.from then
        decided.filled[#decided.filled + 1] = { shard = shard, first = piece.first, last = piece.last, from = piece.from }
      end
    end
  end
  return decided
end

-- ---- the batches of a plan ----

-- The records first..last of a batch, as a batch that the leader could have written so.
local function cut(batch, first, last)
  batch = assert(batch:after(first - 1))
  if batch.last_seqno <= last then
    return batch
  end
  local records = {}
  for position = 1, last - batch.first_seqno + 1 do
    records[position] = batch:record(position)
  end
  return Batch.encode {
    shard = batch.shard, epoch = batch.epoch, prev_epoch = batch.prev_epoch, first_seqno = batch.first_seqno,
    durable_seqno = batch.durable_seqno, written_ms = batch.written_ms, log_id = batch.log_id, origin = batch.origin, records = records,
  }
end

-- Calls `visit(batch, bytes)` for the batches of a piece, cut to it. The run remembers how far it was read, for its next piece.
local function each_batch(files, piece, visit)
  local run = piece.run
  scan.with_window(files, run.path, function(window)
    local offset, seqno = run.seen_offset or run.offset, run.seen_seqno or run.first
    while seqno <= piece.last do
      local header = scan.header(window, offset)
      local batch, bytes
      if header and header.whole then
        batch, bytes = scan.batch(window, offset, header)
      end
      if not batch or batch.first_seqno ~= seqno or batch.epoch ~= run.epoch then
        fail("LOCKED", "%s: offset %d: has changed since it was read, so a writer is at work: end it first", run.path, offset)
      end
      run.seen_offset, run.seen_seqno = offset, seqno
      if batch.last_seqno >= piece.first then
        local part = cut(batch, math.max(piece.first, seqno), piece.last)
        visit(part, part == batch and bytes or part:bytes())
      end
      offset, seqno = offset + header.size, batch.last_seqno + 1
    end
  end)
end

-- Calls `visit(shard, batch, bytes)` for all batches of the plan, shard by shard.
local function each_planned(files, decided, progress, visit)
  local done = 0
  for _, shard in ipairs(decided.ids) do
    for _, piece in ipairs(decided.shards[shard].pieces) do
      each_batch(files, piece, function(batch, bytes)
        visit(shard, batch, bytes)
        done = done + #batch
        progress("writing", done, decided.records)
      end)
    end
  end
end

-- ---- writing the same log ----

-- Writes batches as they are, into segments of one epoch each.
local function new_segments(files, directory)
  local writer = { bytes = 0 }
  local file, path, shard, epoch, size, last

  function writer.finish()
    if file then
      local closing = file
      file = nil
      local synced, message = files.sync(closing)
      files.close(closing)
      if not synced then
        fail("IO", "%s: %s", path, message)
      end
    end
  end

  function writer.add(batch, bytes)
    if file and batch.shard == shard and (batch.first_seqno ~= last + 1 or batch.prev_epoch ~= epoch) then
      fail("DIVERGED", "shard %d: the record before %d is not of the epoch that its batch names", shard, batch.first_seqno)
    end
    if file and (batch.shard ~= shard or batch.epoch ~= epoch or size + #bytes > SEGMENT_BYTES) then
      writer.finish()
    end
    if not file then
      path = ("%s/%05d-%020d.wal"):format(directory, batch.shard, batch.first_seqno)
      file, shard, epoch, size = must(files.create(path)), batch.shard, batch.epoch, 0
    end
    local written, message = files.write(file, bytes)
    if not written then
      fail("IO", "%s: cannot write it: %s", path, message)
    end
    size, last, writer.bytes = size + #bytes, batch.last_seqno, writer.bytes + #bytes
  end

  function writer.abandon()
    if file then
      files.close(file)
      file = nil
    end
  end

  return writer
end

local function check_state(result, message, code)
  if not result then
    fail(code, "%s", message)
  end
  return result
end

-- Makes the heads, last of all: only they make it a log.
local function write_heads(directory, decided, target, epoch)
  local identity = target.identity
  local own_epoch = identity and identity.own_epoch or epoch
  local note = survey.encode_note { log_id = target.log_id, epoch = epoch, own_epoch = own_epoch }
  local heads = check_state(ReplicationState.open(directory .. "/heads", decided.ids))
  local marks = {}
  for _, shard in ipairs(decided.ids) do
    local pieces = decided.shards[shard].pieces
    marks[shard] = pieces[1] and pieces[#pieces].last or 0
  end
  local done, message, code = heads:advance_all(marks)
  if done then
    done, message, code = heads:checkpoint { [decided.ids[1]] = note }
  end
  heads:close()
  check_state(done, message, code)
end

local function write_same(files, directory, decided, target, progress)
  local segments, batches = new_segments(files, directory), 0
  local epoch = 0
  for known in pairs(target.epochs) do
    epoch = math.max(epoch, known)
  end
  local ok, failure = pcall(each_planned, files, decided, progress, function(_, batch, bytes)
    segments.add(batch, bytes)
    batches, epoch = batches + 1, math.max(epoch, batch.epoch)
  end)
  if not ok then
    segments.abandon()
    error(failure, 0)
  end
  segments.finish()
  must(files.sync_directory(directory))
  write_heads(directory, decided, target, epoch)
  return { batches = batches, log_id = target.log_id }
end

-- ---- writing a new log ----

-- Lines such as "shard 0: 1..3 -> 1..3" and "shard 0: 4..4 missing", in the order of the old seqnos.
local function describe(decided, target, mapping)
  local lines = { "tidemark salvaged 1", ("log %08x"):format(target.log_id) }
  for _, shard in ipairs(decided.ids) do
    local ranges = {}
    for _, range in ipairs(decided.shards[shard].missing) do
      ranges[#ranges + 1] = { range[1], ("shard %d: %d..%d missing"):format(shard, range[1], range[2]) }
    end
    for _, part in ipairs(mapping[shard] or {}) do
      local text = ("shard %d: %d..%d -> %d..%d"):format(shard, part.first, part.last, part.to, part.to + part.last - part.first)
      ranges[#ranges + 1] = { part.first, text }
    end
    table.sort(ranges, function(left, right)
      return left[1] < right[1]
    end)
    for _, range in ipairs(ranges) do
      lines[#lines + 1] = range[2]
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

local function write_file(files, path, text)
  local aside = path .. ".new"
  local file = must(files.create(aside))
  local ok, message = files.write(file, text)
  if ok then
    ok, message = files.sync(file)
  end
  files.close(file)
  if ok then
    ok, message = files.rename(aside, path)
  end
  if not ok then
    fail("IO", "%s: %s", path, message)
  end
end

local function append_all(files, wal, decided, target, progress)
  local mapping, batches = {}, 0
  each_planned(files, decided, progress, function(shard, batch)
    local records = {}
    for _, record in batch:records() do
      records[#records + 1] = record
    end
    local origin = batch.origin or { log_id = target.log_id, epoch = batch.epoch, first_seqno = batch.first_seqno }
    local first = check_state(wal:append(shard, records, { origin = origin }))
    local parts = mapping[shard] or {}
    mapping[shard] = parts
    local part = parts[#parts]
    if part and part.last + 1 == batch.first_seqno then
      part.last = batch.last_seqno
    else
      parts[#parts + 1] = { first = batch.first_seqno, last = batch.last_seqno, to = first }
    end
    batches = batches + 1
  end)
  check_state(wal:sync())
  return mapping, batches
end

local function write_new(files, directory, decided, target, progress)
  local wal = check_state(Wal.open(directory, { shards = decided.ids, sync = false }))
  local ok, mapping, batches = pcall(append_all, files, wal, decided, target, progress)
  local log_id = wal:log_id()
  local closed, message, code = wal:close()
  if not ok then
    error(mapping, 0)
  end
  check_state(closed, message, code)
  write_file(files, directory .. "/salvaged", describe(decided, target, mapping))
  return { batches = batches, log_id = log_id }
end

-- ---- the new directory ----

local function remove_made(files, directory)
  for _, name in ipairs(files.list(directory) or {}) do
    files.remove(directory .. "/" .. name)
  end
  files.remove_directory(directory)
end

local function parent_of(path)
  local parent = path:match "^(.*)/[^/]+$"
  return parent == "" and "/" or parent or "."
end

-- Fails unless nothing, or an empty directory, is at the place of the new log, and nothing where it is made. Returns both paths.
local function check_place(files, directory, newdir)
  newdir = newdir:gsub("(.)/+$", "%1")
  newdir = files.real(newdir) or newdir
  local aside = newdir .. ASIDE
  local names = files.list(newdir)
  if files.real(directory) == newdir then
    fail(nil, "%s: is the log that is salvaged, which is left as it is: name another place", newdir)
  elseif files.fingerprint(aside) then
    fail(nil, "%s: a salvage is at work there, or was cut off: if none is at work, remove it and begin again", aside)
  elseif names and #names > 0 then
    fail(nil, "%s: is not empty: remove it, or name a directory that is not there yet", newdir)
  elseif not names and files.fingerprint(newdir) then
    fail(nil, "%s: is no directory that can be listed", newdir)
  end
  local log, parent = files.real(directory), files.real(parent_of(newdir))
  if log and parent and (parent .. "/"):sub(1, #log + 1) == log .. "/" then
    fail(nil, "%s: is in the log that is salvaged, which is left as it is: name another place", newdir)
  end
  return newdir, aside, names ~= nil
end

-- Makes the new log in `aside`, checks it, and gives it its name.
local function make_log(files, target, decided, newdir, aside, progress)
  if files.fingerprint(newdir) then
    must(files.remove_directory(newdir)) -- fails at once where it is a mount point, which nothing can replace
  end
  local write = #decided.missing == 0 and write_same or write_new
  local made = write(files, aside, decided, target, progress)
  must(files.sync_directory(aside))
  survey.check_unchanged(files, target)
  progress("checking", 1, 1)
  local report = check_state(Wal.verify(aside))
  if report.records ~= decided.records then
    fail(nil, "%s: has %d records, not %d", aside, report.records, decided.records)
  end
  must(files.rename(aside, newdir))
  must(files.sync_directory(parent_of(newdir)))
  return made
end

local function run(files, directory, newdir, options)
  local progress, others = options.progress or function() end, {}
  local place, aside, is_there = check_place(files, directory, newdir)
  local target = survey.read(files, directory, progress)
  for i, other in ipairs(options.from or {}) do
    others[i] = survey.read(files, other, progress)
    if others[i].log_id and target.log_id and others[i].log_id ~= target.log_id then
      fail("FOREIGN", "%s is log %08x, but %s is log %08x: leave it out", other, others[i].log_id, directory, target.log_id)
    end
  end
  survey.check_unchanged(files, target)
  local decided = make_plan(target, others, options.shards or 0)
  if not target.log_id or decided.records == 0 and #decided.missing > 0 then
    local why = decided.notes[1] and ": " .. decided.notes[1] or ""
    fail("LOST", "%s: nothing in it is whole, and no other log has records that are proved to be its own%s", directory, why)
  end
  must(files.make_directory(aside))
  local ok, made = pcall(make_log, files, target, decided, place, aside, progress)
  if not ok then
    remove_made(files, aside)
    if is_there and not files.fingerprint(place) then
      files.make_directory(place)
    end
    error(made, 0)
  end
  local damage, shards = {}, {}
  for i, shard in ipairs(decided.ids) do
    table.move(target.shards[shard].damage, 1, #target.shards[shard].damage, #damage + 1, damage)
    shards[i] = { id = shard, begins = decided.shards[shard].begins }
  end
  return {
    complete = #decided.missing == 0, old_log_id = target.log_id, log_id = made.log_id, heads_why = target.heads_why,
    records = decided.records, batches = made.batches, shards = shards, damage = damage, missing = decided.missing,
    filled = decided.filled, notes = decided.notes,
  }
end

---@class tidemark.SalvageOptions
---@field from? string[] directories of other logs
---@field shards? integer how many shards the log had, from 0 on; counts only if its heads cannot be read
---@field progress? fun(what: string, done: integer, whole: integer)

---@class tidemark.SalvageReport
---@field complete boolean nothing is missing: the new log has id, seqnos and epochs of the old one
---@field log_id integer of the new log
---@field old_log_id integer
---@field records integer
---@field batches integer
---@field shards { id: integer, begins: integer }[]
---@field damage { path: string, offset: integer, after: integer }[] what is not whole, or was left by a writer that was cut off
---@field missing { shard: integer, first: integer, last: integer }[]
---@field filled { shard: integer, first: integer, last: integer, from: string }[]
---@field notes string[] why another log, or a range of its records, was not used
---@field heads_why string? why the heads of the old log could not be used

--- Makes the log `newdir` from the damaged one in `directory`.
---@param files tidemark.SalvageFiles
---@param directory string
---@param newdir string
---@param options tidemark.SalvageOptions?
---@return tidemark.SalvageReport? report
---@return string? message
---@return tidemark.ErrorCode? code
function salvage.run(files, directory, newdir, options)
  local ok, result = pcall(run, files, directory, newdir, options or {})
  if ok then
    return result
  elseif type(result) == "table" and result.message then
    return nil, result.message, result.code
  end
  error(result, 0)
end

return salvage
