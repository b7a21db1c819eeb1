"""Files in, files out: VCF and BCF."""
