"""Settings of the property tests: no deadline on an example, as busy machines miss any."""

from hypothesis import settings

settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
