//! Fanfare: a shop submits an order once, and every sandboxed consumer hears of it.
//!
//! The modules stand in the order in which an order walks through them:
//! [`api`] → [`order`] (decide) → [`backend`] (commit) → [`delivery`] → [`sandbox`] and
//! [`capability`] (handle) → [`backend`] (commit). No arrow points back.

// Words that every module speaks.
pub mod clock;
pub mod effects;
pub mod event;
pub mod order;
pub mod policy;
pub mod signature;
pub mod version;

// The ports, the adapters behind them, and what everybody is set up by and counts on.
pub mod backend;
pub mod config;
pub mod fault;
pub mod file;
pub mod telemetry;
pub mod threads;

// What handles a delivery.
pub mod capability;
pub mod consumer;
pub mod delivery;
pub mod sandbox;

// What people and programs see.
pub mod api;
pub mod app;
pub mod cli;
pub mod lambda;
pub mod sender;
