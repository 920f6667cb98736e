//! stub until merged
use crate::control::api;
use crate::identity::tox_id::PublicKey;
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
    /// stub
    pub fn overview(&self) -> anyhow::Result<api::OwnRelay> {
        unimplemented!()
    }
    /// stub
    pub fn owners(&self) -> anyhow::Result<Vec<api::Owner>> {
        unimplemented!()
    }
    /// stub
    pub fn remove_owner(&self, _key: PublicKey) -> anyhow::Result<bool> {
        unimplemented!()
    }
    /// stub
    pub fn default_quota(&self) -> u64 {
        unimplemented!()
    }
    /// stub
    pub fn is_offered(&self) -> bool {
        unimplemented!()
    }
    /// stub
    pub fn stop(&self) {}
}
