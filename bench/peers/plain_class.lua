--- A peer of the benches: high-water marks as a plain Lua class over a table, without a check of its arguments.

local PlainClass = {}
PlainClass.__index = PlainClass

function PlainClass.new(shards)
  local marks = {}
  for _, shard in ipairs(shards) do
    marks[shard] = 0
  end
  return setmetatable({ marks = marks }, PlainClass)
end

function PlainClass:applied_seqno(shard)
  return self.marks[shard]
end

function PlainClass:advance(shard, seqno)
  local mark = self.marks[shard]
  if not mark then
    return nil, "shard " .. shard .. " is not tracked", "UNKNOWN_SHARD"
  end
  if mark >= seqno then
    return false
  end
  self.marks[shard] = seqno
  return true
end

return PlainClass
