"""Whether a gateway's token limits hold: load with known answers, what its clients saw, and a
judgement of that. It speaks HTTP and imports only the lab."""
