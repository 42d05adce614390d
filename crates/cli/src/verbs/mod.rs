//! One file per verb: ask the engine, show what it says.

pub mod create;
pub mod doctor;
pub mod exec;
pub mod history;
pub mod image_prune;
pub mod images;
pub mod import;
pub mod info;
pub mod inspect;
pub mod kernel;
pub mod kill;
pub mod load;
pub mod logs;
pub mod ps;
pub mod pull;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod save;
pub mod start;
pub mod stop;
pub mod tag;
pub mod version;
pub mod wait;
