//! Tests of the engine over the shelf in memory.
