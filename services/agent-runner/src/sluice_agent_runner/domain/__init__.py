"""What an agent's turn is: pure. No I/O, no clock, no random, no asyncio."""
