//! What a relay keeps: owners, registered slots and their contents, in SQLite and files of their own beside the agent's, with
//! the same durability as the queue. Uses [`crate::relay`], [`crate::lane`] and [`crate::identity`].
