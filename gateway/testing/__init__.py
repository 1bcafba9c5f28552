"""What tests of the gateway, and of applications on it, may use: scripted providers and a small real model."""
