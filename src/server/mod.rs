//! Sockets and threads. Knows `http` and one closure per listener.
