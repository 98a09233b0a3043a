---@meta tidemark.follower_db_types
--- Types of what a FollowerDb is given, for language servers (LuaCATS). Never loaded at run time. The class itself is
--- lua/tidemark/follower_db.lua; contracts: docs/reference.md.

---Does the work of one record inside the transaction. It fails by raising an error, by returning nil and a message, or by returning false; it
---must not yield nor end the transaction.
---@alias tidemark.FollowerDbFunction fun(db: tidemark.FollowerDb, record: string, seqno: integer, shard: integer): any?, string?, string?

return {}
