"""The torch world: models are trained and made small here, served by `serving`, and met by the service over HTTP."""
