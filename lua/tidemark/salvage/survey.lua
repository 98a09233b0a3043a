--- Reads a log whole, damaged or not: which whole batches it has where, what its heads say, and whether a writer changes it meanwhile.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local scan = require "tidemark.salvage.scan"

local NOTE = "<c4BBI2I4I4i8i8I4" -- of the heads
local NOTE_MAGIC, NOTE_VERSION = "TMLG", 2

local survey = {}
local fail = scan.fail

--- The note that names a log in its heads. It has no router.
---@param identity { log_id: integer, epoch: integer, own_epoch: integer }
---@return string note
function survey.encode_note(identity)
  return NOTE:pack(NOTE_MAGIC, NOTE_VERSION, 0, 0, identity.log_id, 0, identity.epoch, identity.own_epoch, 0)
end

---@class tidemark.SalvageSurvey
---@field directory string
---@field log_id integer? nil: nothing in it is whole
---@field marks table<integer, integer>? of the heads; nil if they cannot be used
---@field heads_why string? why they cannot
---@field identity { log_id: integer, epoch: integer, own_epoch: integer }? of the heads
---@field last_opening integer? the epoch that was begun last in this directory, if that is known
---@field epochs table<integer, true> all epochs that heads and whole headers name
---@field shards table<integer, { segments: table[], runs: tidemark.SalvageRun[], damage: tidemark.SalvageDamage[], head: integer? }>
---@field fingerprints table<string, string> of the segments, by path

-- What the heads say: the marks and the identity of the log. Or nil, nil and why they cannot be used.
local function read_heads(directory)
  local heads, message, code = Wal.heads(directory)
  if not heads and (code == "NOT_FOUND" or code == "CORRUPT") then
    return nil, nil, code == "NOT_FOUND" and "there is no file heads" or "the file heads is damaged"
  elseif not heads then
    fail(code, "%s", message)
  end
  for _, shard in ipairs(heads:shards()) do
    local note = heads:note(shard)
    if note then
      local version = note:sub(1, 4) == NOTE_MAGIC and note:byte(5) or #note == 12 and 1 or nil
      if version and version ~= NOTE_VERSION then
        fail("UNSUPPORTED", "%s/heads: shard %d: the note of the log has version %d, this tidemark reads version %d", directory, shard,
          version, NOTE_VERSION)
      elseif version and #note == NOTE:packsize() then
        local _, _, router, _, log_id, _, epoch, own_epoch = NOTE:unpack(note)
        if router ~= 0 then
          fail("UNSUPPORTED", "%s/heads: shard %d: the log has a router of kind %d, this tidemark knows none", directory, shard, router)
        elseif log_id ~= 0 and epoch > 0 and own_epoch >= 0 and own_epoch <= epoch then
          local marks = heads:snapshot()
          heads:close()
          return marks, { log_id = log_id, epoch = epoch, own_epoch = own_epoch }
        end
      end
      heads:close()
      return nil, nil, "the file heads is damaged: its note is not that of a log"
    end
  end
  heads:close()
  return nil, nil, "the file heads names no log"
end

-- The epoch that was begun last in the log. Nil where nobody knows that: without heads, in a replica, where a slot of the heads is damaged,
-- which may be the newer one, and where the heads are older than the segments.
local function last_opening(log)
  local identity = log.identity
  if not identity or identity.own_epoch == 0 then
    return nil
  end
  for epoch in pairs(log.epochs) do
    if epoch > identity.epoch then
      return nil
    end
  end
  local info = ReplicationState.inspect(log.directory .. "/heads")
  return info and info[0].valid and info[1].valid and identity.epoch or nil
end

local SEGMENT_NAME = "^(%d%d%d%d%d)%-(" .. ("%d"):rep(20) .. ")%.wal$"

local function list_segments(files, directory)
  local names, message = files.list(directory)
  if not names then
    fail("IO", "%s: cannot list it: %s", directory, message)
  end
  table.sort(names)
  local segments = {}
  for _, name in ipairs(names) do
    local shard, first = name:match(SEGMENT_NAME)
    shard, first = tonumber(shard), tonumber(first)
    if shard and shard <= 65535 and math.type(first) == "integer" and first > 0 then
      local path = directory .. "/" .. name
      segments[#segments + 1] = { path = path, shard = shard, first_seqno = first }
    end
  end
  return segments
end

-- The id of the log, as heads and the segments agree on it. What is no log of this version is refused here.
local function find_log_id(files, log, segments)
  local id, where = log.identity and log.identity.log_id, log.directory .. "/heads"
  for _, segment in ipairs(segments) do
    local header, size = scan.with_window(files, segment.path, function(window)
      return scan.header(window, 0), window.size
    end)
    log.bytes = log.bytes + size
    if header and header.unsupported then
      fail("UNSUPPORTED", "%s: offset 0: %s", segment.path, header.unsupported)
    elseif header and id and header.log_id ~= id then
      fail("FOREIGN", "%s is of log %08x, but %s is of log %08x: take away the one that does not belong there", segment.path,
        header.log_id, where, id)
    elseif header and not id then
      id, where = header.log_id, segment.path
    end
  end
  return id
end

-- Adds a whole batch to the runs of its shard.
local function add_batch(log, entry, path, header, offset)
  local run = entry.runs[#entry.runs]
  if run and run.path == path and run.next_offset == offset and run.epoch == header.epoch and run.last + 1 == header.first_seqno then
    run.last, run.next_offset = header.last_seqno, offset + header.size
  else
    entry.runs[#entry.runs + 1] = {
      path = path, offset = offset, next_offset = offset + header.size, epoch = header.epoch, prev_epoch = header.prev_epoch,
      first = header.first_seqno, last = header.last_seqno,
    }
  end
  log.epochs[header.epoch] = true
  log.epochs[header.prev_epoch] = header.prev_epoch > 0 or nil
end

-- Scans one segment, after the record `last` of `epoch`. Returns the last record that was found, and its epoch.
local function scan_segment(files, log, entry, segment, limit, last, epoch, progress)
  return scan.with_window(files, segment.path, function(window)
    local segment_scan = scan.new {
      window = window, shard = segment.shard, log_id = log.log_id, last = segment.first_seqno - 1, least_epoch = epoch or 0,
      epoch = last == segment.first_seqno - 1 and epoch or nil, limit = limit,
    }
    local damage = segment_scan:run(function(header, offset)
      add_batch(log, entry, segment.path, header, offset)
      progress("reading", log.done + offset, log.bytes)
    end)
    log.done, log.log_id = log.done + window.size, segment_scan.log_id
    table.move(damage, 1, #damage, #entry.damage + 1, entry.damage)
    return segment_scan.last, segment_scan.epoch or epoch
  end)
end

-- Scans the segments of one shard.
local function scan_shard(files, log, shard, progress)
  local entry = log.shards[shard]
  local last, epoch = 0, nil
  for position, segment in ipairs(entry.segments) do
    local after = entry.segments[position + 1]
    local limit = after and after.first_seqno - 1 or math.maxinteger
    last, epoch = scan_segment(files, log, entry, segment, limit, last, epoch, progress)
  end
  for _, found in ipairs(entry.damage) do
    if found.header then
      log.epochs[found.header.epoch] = true
    end
  end
end

--- Reads a log whole, but keeps nothing of its records.
---@param files tidemark.SalvageFiles
---@param directory string
---@param progress fun(what: string, done: integer, whole: integer)
---@return tidemark.SalvageSurvey
function survey.read(files, directory, progress)
  local log = { directory = directory, shards = {}, epochs = {}, bytes = 0, done = 0, fingerprints = {} }
  log.heads_fingerprint = files.fingerprint(directory .. "/heads")
  log.marks, log.identity, log.heads_why = read_heads(directory)
  local segments = list_segments(files, directory)
  for shard, head in pairs(log.marks or {}) do
    log.shards[shard] = { segments = {}, runs = {}, damage = {}, head = head }
  end
  for _, segment in ipairs(segments) do
    local entry = log.shards[segment.shard] or { segments = {}, runs = {}, damage = {} }
    log.shards[segment.shard] = entry
    entry.segments[#entry.segments + 1] = segment
    log.fingerprints[segment.path] = files.fingerprint(segment.path) or "gone"
  end
  if log.identity then
    log.epochs[log.identity.epoch] = true
    log.epochs[log.identity.own_epoch] = log.identity.own_epoch > 0 or nil
  end
  if not log.marks and #segments == 0 then
    fail("NOT_FOUND", "%s: there is no log in it: %s, and no segment", directory, log.heads_why)
  end
  log.log_id = find_log_id(files, log, segments)
  for shard in pairs(log.shards) do
    log.ids = log.ids or {}
    log.ids[#log.ids + 1] = shard
  end
  table.sort(log.ids)
  for _, shard in ipairs(log.ids) do
    scan_shard(files, log, shard, progress)
  end
  log.last_opening = last_opening(log)
  return log
end

--- Fails if the log has changed since it was read.
---@param files tidemark.SalvageFiles
---@param log tidemark.SalvageSurvey
function survey.check_unchanged(files, log)
  local heads = log.marks and Wal.heads(log.directory) -- opened again: those that are open need not be the ones on disk
  local marks = heads and heads:snapshot()
  local changed = (log.marks ~= nil) ~= (marks ~= nil) or files.fingerprint(log.directory .. "/heads") ~= log.heads_fingerprint
  for shard, mark in pairs(marks or {}) do
    changed = changed or log.marks[shard] ~= mark
  end
  if heads then
    heads:close()
  end
  changed = changed and "heads"
  local count = 0
  for _, segment in ipairs(list_segments(files, log.directory)) do
    count = count + 1
    changed = changed or log.fingerprints[segment.path] ~= files.fingerprint(segment.path) and segment.path
  end
  for _ in pairs(log.fingerprints) do
    count = count - 1
  end
  if changed or count ~= 0 then
    fail("LOCKED", "%s: has changed while it was read (%s), so a writer is at work: end it first", log.directory,
      changed or "its segments")
  end
end

return survey
