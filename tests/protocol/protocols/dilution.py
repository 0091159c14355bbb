"""A serial dilution: two pipettes, distribute, consolidate, a chain of transfers, new tips and old ones."""

metadata = {"protocolName": "Serial dilution"}
requirements = {"robotType": "OT-2", "apiLevel": "2.20"}


def run(ctx):  # type: ignore[no-untyped-def]
    plate = ctx.load_labware("corning_96_wellplate_360ul_flat", "2", label="dilutions")
    reservoir = ctx.load_labware("nest_12_reservoir_15ml", "3")
    tubes = ctx.load_labware("opentrons_24_tuberack_nest_1.5ml_snapcap", "6")
    big = ctx.load_labware("opentrons_96_tiprack_300ul", "1")
    small = ctx.load_labware("opentrons_96_tiprack_20ul", "4")
    multi = ctx.load_instrument("p300_multi_gen2", mount="right", tip_racks=[big])
    single = ctx.load_instrument("p20_single_gen2", mount="left", tip_racks=[small])
    multi.distribute(100, reservoir["A1"], plate.rows()[0][1:4], disposal_volume=20)
    single.transfer(15, tubes["A1"], plate.columns()[0][:3], new_tip="always")
    multi.transfer(50, plate.rows()[0][:3], plate.rows()[0][1:4], mix_after=(2, 50), new_tip="always")
    single.consolidate(5, plate.columns()[3][:3], tubes["D6"], touch_tip=True)
    single.pick_up_tip(small["H12"])
    single.move_to(tubes["C3"].top(20))
    single.drop_tip()
