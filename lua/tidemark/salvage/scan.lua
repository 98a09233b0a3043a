--- Finds the whole batches of one segment, whatever else is in it. A segment is read through a window, so that memory is bounded by the
--- longest batch.
---
--- After damage the scan goes on where the damaged batch ends, if its header is whole. If the header itself is damaged, its fields are
--- hints: most of them are still right, and a record may hold bytes that look like a batch. Only if several fields are wrong can such a
--- record be taken for a batch, and then only if it was made for that, with seqnos that this shard did not have yet.

local core = require "tidemark.core"

local Batch, epoch_text = core.Batch, core.epoch_text

local HEADER, ORIGIN, MAGIC, VERSION, FLAGS = 64, 24, "TMWB", 3, 1
local FIELDS = "<c4BBI2I4I4i8i8i8i8I4I4I4I4"
local MOST = 67108864 -- bytes of a batch
local WINDOW, PAGE = 262144, 4096 -- bytes
local PLAUSIBLE = 4 -- of the five fields of a damaged header that are known beforehand

-- ---- CRC32C, for headers only: Batch.decode checks whole batches ----

local CRC = {}
for i = 0, 255 do
  local sum = i
  for _ = 1, 8 do
    sum = sum & 1 == 1 and (sum >> 1) ~ 0x82F63B78 or sum >> 1
  end
  CRC[i] = sum
end

local function crc32c(bytes)
  local sum = 0xFFFFFFFF
  for i = 1, #bytes do
    sum = CRC[(sum ~ bytes:byte(i)) & 0xFF] ~ (sum >> 8)
  end
  return sum ~ 0xFFFFFFFF
end

-- ---- failures: raised inside, returned by tidemark.salvage ----

local scan = {}

---@class tidemark.SalvageFailure
---@field message string
---@field code string?

--- Raises a failure that salvage.run returns.
---@param code string?
---@param format string
---@param ... any
function scan.fail(code, format, ...)
  error({ message = select("#", ...) > 0 and format:format(...) or format, code = code }, 0)
end

-- ---- reading through a window ----

local Window = {}
Window.__index = Window

local function open(files, path)
  local fd, message = files.open(path)
  if not fd and not files.fingerprint(path) then
    scan.fail("LOCKED", "%s: was removed while the log was read, so a writer is at work: end it first", path)
  elseif not fd then
    scan.fail("IO", "%s: cannot open it: %s", path, message)
  end
  local size
  size, message = files.size(fd)
  if not size then
    files.close(fd)
    scan.fail("IO", "%s: %s", path, message)
  end
  return setmetatable({ files = files, path = path, fd = fd, size = size, start = 0, block = "" }, Window)
end

--- Calls `f(window)` with the file open, and returns its results.
---@param files tidemark.SalvageFiles
---@param path string
---@param f function
function scan.with_window(files, path, f)
  local window = open(files, path)
  local results = table.pack(pcall(f, window))
  files.close(window.fd)
  if not results[1] then
    error(results[2], 0)
  end
  return table.unpack(results, 2, results.n)
end

-- Up to `size` bytes. A page that the disk cannot read is damage as any other: it counts as zeros.
function Window:read(size, offset)
  local bytes, message, name = self.files.read(self.fd, size, offset)
  local page = math.min(size, PAGE - offset % PAGE)
  if not bytes and name == "EIO" and page < size then
    bytes, message, name = self.files.read(self.fd, page, offset)
  end
  if not bytes and name == "EIO" then
    return ("\0"):rep(page)
  elseif not bytes then
    scan.fail("IO", "%s: offset %d: cannot read it: %s", self.path, offset, message)
  end
  return bytes
end

-- Makes the block hold [offset, offset + size), as far as the file goes.
function Window:load(offset, size)
  size = math.max(math.min(size, self.size - offset), 0)
  if offset >= self.start and offset + size <= self.start + #self.block then
    return
  end
  local parts, wanted = {}, math.max(size, math.min(WINDOW, self.size - offset))
  local at = offset
  while wanted > 0 do
    local part = self:read(wanted, at)
    if part == "" then -- it was cut since it was opened
      break
    end
    parts[#parts + 1] = part
    wanted, at = wanted - #part, at + #part
  end
  self.start, self.block = offset, table.concat(parts)
end

--- `size` bytes from `offset` on, fewer at the end of the file.
function Window:get(offset, size)
  self:load(offset, size)
  local first = offset - self.start + 1
  return self.block:sub(first, first + size - 1)
end

--- Where what may be a header begins next, from `offset` on and before `stop`: the magic and a version below 32.
function Window:find_header(offset, stop)
  while offset < stop do
    self:load(offset, math.min(WINDOW, self.size - offset))
    local found = self.block:find("TMWB[\1-\31]", offset - self.start + 1)
    if found then
      local at = self.start + found - 1
      return at < stop and at or nil
    end
    local read = self.start + #self.block
    if read >= self.size then
      return nil
    end
    offset = math.max(read - 4, offset + 1)
  end
end

--- Whether there are only zeros from `offset` to `stop`.
function Window:is_zero(offset, stop)
  while offset < stop do
    local bytes = self:get(offset, math.min(WINDOW, stop - offset))
    if bytes == "" then
      return true
    elseif bytes:find "[^\0]" then
      return false
    end
    offset = offset + #bytes
  end
  return true
end

-- ---- headers ----

---@class tidemark.SalvageHeader
---@field whole boolean its CRC and its ranges are right; otherwise the fields are hints
---@field unsupported string? what this version cannot read, in a header whose CRC is right

-- The header at `offset`, nil where there are fewer bytes. Where `is_wanted(header)` is false it counts as not whole.
local function header_at(window, offset, is_wanted)
  local bytes = window:get(offset, HEADER)
  if #bytes < HEADER then
    return nil
  end
  local magic, version, flags, shard, count, length, epoch, prev_epoch, first, written_ms, log_id, _, _, crc = FIELDS:unpack(bytes)
  local header = {
    magic = magic, version = version, flags = flags, shard = shard, count = count, size = HEADER + length, epoch = epoch,
    prev_epoch = prev_epoch, first_seqno = first, last_seqno = first + count - 1, log_id = log_id, whole = false,
  }
  if magic ~= MAGIC or is_wanted and not is_wanted(header) or crc ~= crc32c(bytes:sub(1, HEADER - 4)) then
    return header
  elseif version ~= VERSION then
    header.unsupported = ("batch: version %d, this tidemark reads version %d"):format(version, VERSION)
  elseif flags & ~FLAGS ~= 0 then
    header.unsupported = ("batch: unknown flags %02x"):format(flags)
  else
    header.whole = count > 0 and count <= length // 4 and header.size <= MOST and epoch > 0 and prev_epoch >= 0 and first > 0
      and header.last_seqno >= first and written_ms >= 0 and log_id > 0
  end
  return header
end

--- The header at `offset` if its CRC is right.
function scan.header(window, offset)
  local header = header_at(window, offset)
  return header and (header.whole or header.unsupported) and header or nil
end

--- The batch at `offset` and its bytes, if it is whole.
---@return tidemark.Batch? batch
---@return string? bytes
function scan.batch(window, offset, header)
  if offset + header.size > window.size then
    return nil
  end
  local bytes = window:get(offset, header.size)
  local batch = Batch.decode(bytes)
  return batch, batch and bytes
end

-- ---- the batches of a segment ----

---@class tidemark.SegmentScan
---@field window table
---@field shard integer
---@field log_id integer? nil: that of the first whole batch
---@field last integer the last seqno that was found
---@field epoch integer? of that record, nil if it is not known
---@field least_epoch integer below which none is of this history any more
---@field limit integer seqnos above it are in a later segment
local Scan = {}
Scan.__index = Scan

-- Whether the header is that of a later batch of this log and shard.
local function fits(self, header)
  return header.shard == self.shard and (not self.log_id or header.log_id == self.log_id) and header.first_seqno > self.last
    and header.last_seqno <= self.limit
end

-- Whether its epochs are those of the same history.
local function continues(self, header)
  if header.first_seqno == self.last + 1 and self.epoch then
    return header.prev_epoch == self.epoch
  end
  return header.epoch >= self.least_epoch and (header.first_seqno == self.last + 1 or header.prev_epoch >= self.least_epoch)
end

-- Whether a damaged header is still that of a batch of this log and shard, but for one field.
local function is_plausible(self, header)
  local right = (header.magic == MAGIC and 1 or 0) + (header.version == VERSION and 1 or 0) + (header.shard == self.shard and 1 or 0)
    + (header.log_id == self.log_id and 1 or 0) + (header.first_seqno > self.last and header.first_seqno <= self.limit and 1 or 0)
  return right >= PLAUSIBLE
end

-- Whether a batch begins at `offset`, even if it is damaged.
local function is_begin(self, offset)
  local header = header_at(self.window, offset)
  return header ~= nil and (header.whole and fits(self, header) or is_plausible(self, header))
end

-- Whether a batch may end at `offset`: the file does, a hole begins, or another batch.
local function is_end(self, offset)
  local window = self.window
  return offset <= window.size and (window:is_zero(offset, math.min(offset + HEADER, window.size)) or is_begin(self, offset))
end

-- The next whole batch from `offset` on that goes on with this shard and that `accept` takes: where it is, and its header.
local function seek(self, offset, stop, accept)
  local window = self.window
  stop = math.min(stop, window.size - HEADER + 1)
  while true do
    local at = window:find_header(offset, stop)
    if not at then
      return nil
    end
    local header = header_at(window, at, function(header)
      return header.version ~= VERSION or fits(self, header)
    end)
    if header.unsupported then
      self.unsupported = self.unsupported or { offset = at, why = header.unsupported }
    elseif header.whole and fits(self, header) and continues(self, header) and accept(header, at) and scan.batch(window, at, header) then
      return at, header
    end
    offset = at + 1
  end
end

-- Looks for the next whole batch with a first seqno above `above`. One that is followed by another is preferred to one that is not,
-- which may be the bytes of a record; the latter counts only if their seqnos leave room for both.
local function hunt(self, offset, above)
  local size = self.window.size
  local firm, next_header = seek(self, offset, size, function(header, at)
    return header.first_seqno > above and is_end(self, at + header.size)
  end)
  local loose = seek(self, offset, firm or size, function(header, at)
    return header.first_seqno > above and not is_end(self, at + header.size)
      and (not firm or header.last_seqno < next_header.first_seqno and at + header.size <= firm)
  end)
  return loose or firm
end

-- Where the batch with a damaged header ends, by its length and, if its count may be right, by where its last record ends.
local function claimed_ends(self, offset, header, claims_records)
  local ends = { offset + header.size }
  local fixed = HEADER + 4 * header.count + (header.flags & FLAGS ~= 0 and ORIGIN or 0)
  if claims_records and offset + fixed <= self.window.size then
    ends[2] = offset + fixed + ("<I4"):unpack(self.window:get(offset + fixed - 4, 4))
  end
  return ends
end

-- Where to go on after a batch whose header is damaged but plausible; nil if that cannot be known.
local function after_claimed(self, offset, header)
  local claims_records = header.first_seqno == self.last + 1 and header.count > 0 and header.count <= (MOST - HEADER) // 4
  local ends = claimed_ends(self, offset, header, claims_records)
  for _, after in ipairs(ends) do
    if is_begin(self, after) then
      return after
    end
  end
  for _, after in ipairs(ends) do
    if is_end(self, after) then -- that of all batches, it seems; if it is the length that is wrong, the next one is in between
      local found = claims_records and seek(self, offset + 1, after, function(next_header, at)
        return next_header.first_seqno == header.last_seqno + 1 and is_end(self, at + next_header.size)
      end)
      return found or after
    end
  end
  return claims_records and hunt(self, offset + 1, header.last_seqno) or nil
end

-- Where to go on after the damage at `offset`, nil if there is nothing more.
local function after_damage(self, offset, header)
  if header and header.whole and fits(self, header) then
    return offset + header.size
  end
  local after = header and is_plausible(self, header) and after_claimed(self, offset, header)
  return after or hunt(self, offset + 1, self.last)
end

---@class tidemark.SalvageDamage bytes that are no whole batch and are not zeros up to the end of the segment
---@field path string of the segment
---@field offset integer
---@field after integer the last seqno before it
---@field header tidemark.SalvageHeader? if it is whole, and of this log and shard
---@field is_tail boolean no whole batch comes after it: a writer that was cut off may have left it

--- Gives every whole batch to `visit(header, offset, bytes)`.
---@param visit fun(header: table, offset: integer, bytes: string)
---@return tidemark.SalvageDamage[] damage
function Scan:run(visit)
  local window, offset, damage, pending = self.window, 0, {}, {}
  while offset and offset < window.size do
    local header = header_at(window, offset)
    if header and header.unsupported then
      scan.fail("UNSUPPORTED", "%s: offset %d: %s", window.path, offset, header.unsupported)
    end
    local batch, bytes
    if header and header.whole and fits(self, header) then
      batch, bytes = scan.batch(window, offset, header)
    end
    if batch and not continues(self, header) then
      scan.fail("DIVERGED", "%s: offset %d: shard %d: seqno %d is of epoch %s and follows epoch %s, but a record before it is of epoch %s: "
        .. "there are segments of two histories, take the wrong ones away", window.path, offset, self.shard, header.first_seqno,
        epoch_text(header.epoch), epoch_text(header.prev_epoch), epoch_text(self.least_epoch))
    elseif batch then
      table.move(pending, 1, #pending, #damage + 1, damage)
      pending = {}
      visit(header, offset, bytes)
      self.log_id, self.last = header.log_id, header.last_seqno
      self.epoch, self.least_epoch = header.epoch, header.epoch
      offset = offset + header.size
    else
      local is_known = header and header.whole and fits(self, header)
      pending[#pending + 1] = {
        path = window.path, offset = offset, after = self.last, header = is_known and header or nil, is_tail = false,
      }
      offset = after_damage(self, offset, header)
    end
  end
  if self.unsupported and #pending > 0 then
    scan.fail("UNSUPPORTED", "%s: offset %d: %s", window.path, self.unsupported.offset, self.unsupported.why)
  end
  if pending[1] and not window:is_zero(pending[1].offset, window.size) then
    pending[1].is_tail = true
    table.move(pending, 1, #pending, #damage + 1, damage)
  end
  return damage
end

---@param fields tidemark.SegmentScan
---@return tidemark.SegmentScan
function scan.new(fields)
  return setmetatable(fields, Scan)
end

return scan
