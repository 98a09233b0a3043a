--- Rows: calls from Lua, against an empty C method (the limit) and a plain Lua class.

local function contender(name, ask)
  return { name = name, worker = "lua", ask = ask }
end

local rows = {}

local function add(what, label, ours, other, ratio_is_cost, target)
  rows[#rows + 1] = {
    what = what,
    label = label,
    contenders = { ours, other },
    ratio = ratio_is_cost and { ours.name, other.name } or { other.name, ours.name },
    target = target,
    unit = "ns",
    on_one = true,
    chart = "Calls from Lua",
  }
end

local empty = contender("empty C method", "empty")
local function limit(what, label, case, target)
  add(what .. " against an empty C method", label, contender("tidemark", case), empty, true, { "<=", target })
end
limit("state:advance(shard, n)", "state:advance, rising", "advance", 1.7)
limit("bound advance(n)", "bound advance, rising", "bound_advance", 0.9)
limit("bound applied()", "bound applied", "bound_applied", 0.65)

local function class(what, label, case, class_case, target)
  add(what .. " against a plain Lua class", label, contender("tidemark", case), contender("plain Lua class", class_case), false, target)
end
class("state:advance(shard, n)", "state:advance, rising", "advance", "class_advance", { ">=", 1 })
class("state:advance(shard, n), stale", "state:advance, stale", "stale", "class_stale", { ">=", 1 })
class("state:applied_seqno(shard)", "state:applied_seqno", "applied_seqno", "class_applied_seqno", { ">=", 1 })
class("bound advance(n)", "bound advance, rising", "bound_advance", "class_advance", { ">=", 2 })
class("bound applied()", "bound applied", "bound_applied", "class_applied_seqno", { ">=", 2 })

return { title = "Lua", rows = rows }
