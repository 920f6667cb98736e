//! stub until merged
use crate::relay::descriptor::{Descriptor, Invite};
/// stub
pub struct RelayHandle {}
impl RelayHandle {
    /// stub
    pub fn descriptor(&self) -> Descriptor {
        unimplemented!()
    }
    /// stub
    pub fn invite(&self, _quota: Option<u64>) -> anyhow::Result<Invite> {
        unimplemented!()
    }
}
