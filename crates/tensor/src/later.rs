//! A value on its way from a device.

/// A value that is there when it is asked for: the host need not wait for a device before it wants to know.
pub struct Later<T>(Box<dyn FnOnce() -> T + Send>);

impl<T: Send + 'static> Later<T> {
    /// A value that is here already.
    pub fn ready(value: T) -> Self {
        Self(Box::new(move || value))
    }

    /// What `wait` gives.
    pub fn new(wait: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Wait for it.
    pub fn get(self) -> T {
        (self.0)()
    }

    /// What `f` makes of it.
    pub fn map<U: Send + 'static>(self, f: impl FnOnce(T) -> U + Send + 'static) -> Later<U> {
        Later::new(move || f(self.get()))
    }
}
