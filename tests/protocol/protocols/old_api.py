"""As protocols were written up to API 2.13: the bin is labware, slots are numbers, pipettes are of the first kind."""

metadata = {"protocolName": "Old API", "apiLevel": "2.13"}


def run(ctx):  # type: ignore[no-untyped-def]
    tips = ctx.load_labware("opentrons_96_tiprack_300ul", 4)
    plate = ctx.load_labware("nest_96_wellplate_200ul_flat", 1)
    deep = ctx.load_labware("nest_96_wellplate_2ml_deep", 2)
    pipette = ctx.load_instrument("p300_multi", "left", tip_racks=[tips])
    pipette.pick_up_tip()
    pipette.aspirate(20, plate["A1"])
    pipette.dispense(20, deep["A2"])
    pipette.drop_tip()
    pipette.pick_up_tip()
    pipette.mix(2, 20, deep["A2"])
    pipette.return_tip()
    ctx.pause("look")
    pipette.reset_tipracks()
    pipette.pick_up_tip()
    pipette.drop_tip()
